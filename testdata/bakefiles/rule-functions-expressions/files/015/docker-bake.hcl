target "a" {
 args={x=sha256("a")}
}
