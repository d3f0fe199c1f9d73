target "a" {
 args={x=can(1)}
}
