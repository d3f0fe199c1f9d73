target "default" {
  args = { R = jsonencode(slice(["a"], 0, 5)) }
}
