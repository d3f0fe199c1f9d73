target "default" {
  args = { R = jsonencode(bytesslice("ab", 0, 1)) }
}
