target "a" {
 args={x=(1+2)*3}
}
