target "default" {
  args = { R = jsonencode(index(["a"], 5)) }
}
