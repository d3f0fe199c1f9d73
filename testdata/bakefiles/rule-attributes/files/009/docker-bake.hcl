target "default" {
cache-from=[1]
}
