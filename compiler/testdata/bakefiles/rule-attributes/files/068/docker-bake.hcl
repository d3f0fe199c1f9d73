target "default" {
context=["a"]
}
