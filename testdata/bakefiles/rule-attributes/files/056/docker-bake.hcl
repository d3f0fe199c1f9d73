target "default" {
ulimits=["a","","a","b"]
}
