target "a" {
 args={x=int(1.7)}
}
