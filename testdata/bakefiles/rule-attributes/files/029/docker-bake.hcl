target "default" {
resources=[1]
}
