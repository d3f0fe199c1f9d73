target "a" {
 args={x=signum(-1)}
}
