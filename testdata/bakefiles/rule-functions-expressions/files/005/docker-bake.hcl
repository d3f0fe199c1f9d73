target "a" {
 args={x=concat(["a"],["b"])[1]}
}
