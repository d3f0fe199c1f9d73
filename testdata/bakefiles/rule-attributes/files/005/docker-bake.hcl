target "default" {
attest=[1]
}
