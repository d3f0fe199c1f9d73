target "a" {
 output=[{Type="image"}]
}
