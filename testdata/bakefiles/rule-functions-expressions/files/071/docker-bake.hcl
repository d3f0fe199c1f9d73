target "a" {
 args={x=["a"][0]}
}
