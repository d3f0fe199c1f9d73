target "a" {
 args={x=pow(2,3)}
}
