target "a" {
 args={x=nope::f(1)}
}
