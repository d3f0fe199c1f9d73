target "default" {
  args = { R = jsonencode(cidrnetmask("fd00::/64")) }
}
