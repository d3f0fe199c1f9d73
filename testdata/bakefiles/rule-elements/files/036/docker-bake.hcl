target "a" {
 output=["out,x"]
}
