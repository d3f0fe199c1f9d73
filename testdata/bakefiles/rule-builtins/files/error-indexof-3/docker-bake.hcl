target "default" {
  args = { R = jsonencode(indexof({a = 1}, 1)) }
}
