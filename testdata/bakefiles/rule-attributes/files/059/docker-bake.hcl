target "default" {
no-cache-filter=[null]
}
