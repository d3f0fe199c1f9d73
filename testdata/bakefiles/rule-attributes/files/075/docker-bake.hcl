target "default" {
target={a=1}
}
