target "default" {
resources=toset(["type=x"])
}
