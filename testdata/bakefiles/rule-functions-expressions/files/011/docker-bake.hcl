target "a" {
 args={x=parseint("ff",16)}
}
