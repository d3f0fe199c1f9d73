target "default" {
  args = { R = jsonencode(lookup({a = "x"}, "b")) }
}
