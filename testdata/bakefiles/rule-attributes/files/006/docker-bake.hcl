target "default" {
attest=toset(["type=x"])
}
