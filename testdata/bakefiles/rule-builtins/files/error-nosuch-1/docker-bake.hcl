target "default" {
  args = { R = jsonencode(nosuch()) }
}
