target "a" {
 args={x=negate(1)}
}
