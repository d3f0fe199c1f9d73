target "a" {
 args={x=-5}
}
