target "default" {
policy=[1]
}
