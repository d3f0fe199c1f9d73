target "a" {
 output=["type=registry"]
}
