target "a" {
 args={x=divide(1,0)}
}
