target "a" {
 args={x=nope[0]}
}
