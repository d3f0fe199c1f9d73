target "default" {
pull=true
}
