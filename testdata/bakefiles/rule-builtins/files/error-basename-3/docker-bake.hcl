target "default" {
  args = { R = jsonencode(basename("a", "b")) }
}
