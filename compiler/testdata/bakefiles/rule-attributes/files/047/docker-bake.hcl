target "default" {
annotations=[null]
}
