target "default" {
cache-from="x"
}
