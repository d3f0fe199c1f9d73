target "default" {
policy=[null]
}
