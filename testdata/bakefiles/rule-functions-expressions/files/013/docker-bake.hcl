target "a" {
 args={x=replace("abc","b","x")}
}
