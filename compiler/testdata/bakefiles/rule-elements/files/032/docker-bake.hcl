target "a" {
 output=["-"]
}
