target "a" {
 args={x=1e100}
}
