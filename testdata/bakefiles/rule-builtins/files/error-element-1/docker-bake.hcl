target "default" {
  args = { R = jsonencode(element([], 0)) }
}
