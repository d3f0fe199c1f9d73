target "a" {
 output=["type=docker,dest=q.tar"]
}
