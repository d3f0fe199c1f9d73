target "default" {
platforms=["a","","a","b"]
}
