target "a" {
 args={x=index(["a"],0)}
}
