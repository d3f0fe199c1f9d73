target "default" {
  args = { R = jsonencode(cidrhost("10.0.0.0", 1)) }
}
