target "default" {
  args = { R = jsonencode(timeadd("x", "1h")) }
}
