target "default" {
platforms=[["x"]]
}
