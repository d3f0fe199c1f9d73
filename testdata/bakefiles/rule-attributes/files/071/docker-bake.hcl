target "default" {
dockerfile=true
}
