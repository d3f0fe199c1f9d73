target "default" {
pull="true"
}
