target "default" {
no-cache=1
}
