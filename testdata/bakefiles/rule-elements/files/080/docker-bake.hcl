target "a" {
 platforms=["LINUX/AMD64"]
}
