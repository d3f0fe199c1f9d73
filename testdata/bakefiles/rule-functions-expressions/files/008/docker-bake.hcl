target "a" {
 args={x=indexof(["a"],"a")}
}
