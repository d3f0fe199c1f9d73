target "default" {
cache-from=toset(["type=x"])
}
