target "default" {
ssh=toset(["type=x"])
}
