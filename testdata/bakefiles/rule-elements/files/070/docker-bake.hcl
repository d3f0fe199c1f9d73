target "a" {
 annotations=["index:a=b"]
}
