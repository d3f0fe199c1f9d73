target "default" {
no-cache-filter=[["x"]]
}
