target "a" {
 args={x=true}
}
