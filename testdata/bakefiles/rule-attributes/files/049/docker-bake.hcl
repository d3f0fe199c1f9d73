target "default" {
annotations=[["x"]]
}
