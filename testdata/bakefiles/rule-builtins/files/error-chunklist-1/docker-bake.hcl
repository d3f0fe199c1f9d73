target "default" {
  args = { R = jsonencode(chunklist(["a"], -1)) }
}
