target "default" {
  args = { R = jsonencode(rsadecrypt("x", "y")) }
}
