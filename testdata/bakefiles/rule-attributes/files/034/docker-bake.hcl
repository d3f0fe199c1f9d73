target "default" {
policy=toset(["type=x"])
}
