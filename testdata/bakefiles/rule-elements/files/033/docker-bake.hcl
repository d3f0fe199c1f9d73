target "a" {
 output=["out"]
}
