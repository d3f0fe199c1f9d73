target "a" {
 output=[{type="local",dest="x",Foo="b"}]
}
