target "default" {
  args = { R = jsonencode(semvercmp("1.0.0", "!!")) }
}
