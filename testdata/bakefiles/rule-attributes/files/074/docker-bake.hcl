target "default" {
target=1
}
