target "default" {
inherits=[null]
}
