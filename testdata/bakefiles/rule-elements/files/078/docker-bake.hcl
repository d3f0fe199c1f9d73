target "a" {
 platforms=["local"]
}
