target "default" {
entitlements=["a","","a","b"]
}
