target "default" {
  args = { R = jsonencode(parseint("zz", 10)) }
}
