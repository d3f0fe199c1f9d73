target "a" {
 output=["type=oci"]
}
