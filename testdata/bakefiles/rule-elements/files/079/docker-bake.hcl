target "a" {
 platforms=["linux"]
}
