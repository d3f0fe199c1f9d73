target "a" {
 ssh=[{paths=[]}]
}
