target "default" {
policy="x"
}
