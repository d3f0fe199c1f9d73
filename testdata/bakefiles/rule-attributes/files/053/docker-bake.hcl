target "default" {
inherits=[["x"]]
}
