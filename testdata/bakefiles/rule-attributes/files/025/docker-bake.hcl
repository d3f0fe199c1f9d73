target "default" {
output=[1]
}
