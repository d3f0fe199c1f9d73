target "default" {
  args = { R = jsonencode(divide(1, 0)) }
}
