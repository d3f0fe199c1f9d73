target "default" {
target="x"
}
