target "default" {
  args = { R = jsonencode(zipmap(["a"], [1, 2])) }
}
