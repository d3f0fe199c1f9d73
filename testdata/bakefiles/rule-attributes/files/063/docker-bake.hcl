target "default" {
entitlements=[null]
}
