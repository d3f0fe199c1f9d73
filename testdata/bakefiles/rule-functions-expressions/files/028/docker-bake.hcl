target "a" {
 args={x=length("x")}
}
