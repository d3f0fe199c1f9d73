target "a" {
 secret=["id=HOME"]
}
