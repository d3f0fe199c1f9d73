target "default" {
  args = { R = jsonencode(add("a", 1)) }
}
