target "default" {
attest="x"
}
