target "default" {
annotations=["a","","a","b"]
}
