target "a" {
 platforms=["a b"]
}
