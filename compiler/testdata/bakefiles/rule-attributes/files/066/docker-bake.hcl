target "default" {
entitlements=[]
}
