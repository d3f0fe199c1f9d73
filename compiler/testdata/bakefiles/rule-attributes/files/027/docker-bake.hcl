target "default" {
resources="x"
}
