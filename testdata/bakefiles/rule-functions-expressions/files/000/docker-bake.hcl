target "a" {
 args={x=add(1,2)}
}
