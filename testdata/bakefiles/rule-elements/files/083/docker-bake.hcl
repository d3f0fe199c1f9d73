target "a" {
 entitlements=["device=x"]
}
