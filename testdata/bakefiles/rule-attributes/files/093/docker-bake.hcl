target "default" {
no-cache="x"
}
