target "a" {
 args={x=upper}
}
