target "default" {
  args = { R = jsonencode(regex("(", "b")) }
}
