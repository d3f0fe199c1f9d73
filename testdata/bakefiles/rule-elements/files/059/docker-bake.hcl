target "a" {
 ssh=["default"]
}
