target "default" {
no-cache-filter=["a","","a","b"]
}
