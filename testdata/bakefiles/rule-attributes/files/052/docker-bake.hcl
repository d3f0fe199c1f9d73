target "default" {
inherits=["a","","a","b"]
}
