target "default" {
cache-to=toset(["type=x"])
}
