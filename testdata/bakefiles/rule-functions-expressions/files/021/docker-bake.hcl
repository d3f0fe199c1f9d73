target "a" {
 args={x=setproduct(["a"],["b"])[0][1]}
}
