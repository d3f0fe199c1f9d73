target "a" {
 args={x=rsadecrypt("x","y")}
}
