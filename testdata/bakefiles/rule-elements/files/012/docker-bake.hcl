target "a" {
 output=["type=local,dest=y"]
}
