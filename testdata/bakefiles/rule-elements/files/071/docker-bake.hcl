target "a" {
 annotations=["foo:a=b"]
}
