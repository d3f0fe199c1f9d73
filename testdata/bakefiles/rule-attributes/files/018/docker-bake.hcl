target "default" {
secret=toset(["type=x"])
}
