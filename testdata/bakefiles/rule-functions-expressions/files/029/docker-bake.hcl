target "a" {
 args={x=not(true)}
}
