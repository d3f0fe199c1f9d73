target "default" {
network=["a"]
}
