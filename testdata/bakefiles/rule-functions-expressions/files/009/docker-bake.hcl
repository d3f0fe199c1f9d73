target "a" {
 args={x=indexof([],"b")}
}
