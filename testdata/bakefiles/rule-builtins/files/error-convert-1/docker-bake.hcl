target "default" {
  args = { R = jsonencode(convert("x", number)) }
}
