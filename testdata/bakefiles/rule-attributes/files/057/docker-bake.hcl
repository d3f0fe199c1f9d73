target "default" {
ulimits=[["x"]]
}
