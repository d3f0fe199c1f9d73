target "default" {
secret="x"
}
