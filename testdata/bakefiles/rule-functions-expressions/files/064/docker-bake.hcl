target "a" {
 args={x=0.1+0.2}
}
