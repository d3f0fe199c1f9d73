target "a" {
 args={x=dirname("/a/b")}
}
