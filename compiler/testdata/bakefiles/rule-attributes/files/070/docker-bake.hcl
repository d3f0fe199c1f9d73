target "default" {
dockerfile=""
}
