target "a" {
 args={x=base64encode("x")}
}
