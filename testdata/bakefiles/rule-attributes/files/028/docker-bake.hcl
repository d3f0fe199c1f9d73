target "default" {
resources=[null]
}
