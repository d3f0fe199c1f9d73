target "default" {
output=toset(["type=x"])
}
