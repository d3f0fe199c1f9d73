target "default" {
no-cache={a=1}
}
