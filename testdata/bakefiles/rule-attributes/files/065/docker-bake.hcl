target "default" {
entitlements=[["x"]]
}
