target "default" {
  args = { R = jsonencode(formattimestamp("X", 1.5)) }
}
