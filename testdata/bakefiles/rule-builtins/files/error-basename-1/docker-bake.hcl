target "default" {
  args = { R = jsonencode(basename(null)) }
}
