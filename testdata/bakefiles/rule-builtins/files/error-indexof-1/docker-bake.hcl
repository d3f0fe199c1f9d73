target "default" {
  args = { R = jsonencode(indexof([], "a")) }
}
