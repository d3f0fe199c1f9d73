target "default" {
  args = { R = jsonencode(regex("a", "b")) }
}
