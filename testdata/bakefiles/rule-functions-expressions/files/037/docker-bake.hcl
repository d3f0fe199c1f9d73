target "a" {
 args={x=distinct(["a","a"])}
}
