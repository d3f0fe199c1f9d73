target "a" {
 args={x=urlencode("a b")}
}
