target "a" {
 attest=["type=provenance,mode=max,Foo=Bar"]
}
