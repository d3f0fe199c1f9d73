target "a" {
 output=["type=tar,dest=x"]
}
