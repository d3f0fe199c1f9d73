target "default" {
cache-to=[1]
}
