target "a" {
 tags=["A"]
}
