target "a" {
 entitlements=["network.host"]
}
