target "default" {
target="1g"
}
