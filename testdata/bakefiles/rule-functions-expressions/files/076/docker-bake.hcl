target "a" {
 args={x=[]}
}
