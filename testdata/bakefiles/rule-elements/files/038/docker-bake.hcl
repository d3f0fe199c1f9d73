target "a" {
 output=["TYPE=image,Name=Foo"]
}
