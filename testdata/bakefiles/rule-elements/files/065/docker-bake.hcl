target "a" {
 attest=["type=sbom,disabled=x"]
}
