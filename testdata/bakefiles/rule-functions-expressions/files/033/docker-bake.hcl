target "a" {
 args={x=max(1,2)}
}
