target "a" {
 args={x=5%3}
}
