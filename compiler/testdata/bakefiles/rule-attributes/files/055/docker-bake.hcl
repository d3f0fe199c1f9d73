target "default" {
ulimits=[null]
}
