target "a" {
 output=["type=oci,dest=x.tar"]
}
