target "a" {
 args={x=upper(["a"]...)}
}
