target "default" {
platforms=[null]
}
