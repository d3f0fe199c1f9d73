target "default" {
  args = { R = jsonencode(formattimestamp("X", "yesterday")) }
}
