target "a" {
 args={x=format("%s-%d","a",1)}
}
