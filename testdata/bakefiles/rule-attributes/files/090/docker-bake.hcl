target "default" {
pull=""
}
