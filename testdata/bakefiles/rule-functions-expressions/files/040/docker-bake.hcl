target "a" {
 args={x=lower("A")}
}
