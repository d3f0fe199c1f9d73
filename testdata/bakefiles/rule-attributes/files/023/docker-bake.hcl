target "default" {
output="x"
}
