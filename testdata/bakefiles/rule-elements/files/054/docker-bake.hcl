target "a" {
 secret=["type=foo,id=a"]
}
