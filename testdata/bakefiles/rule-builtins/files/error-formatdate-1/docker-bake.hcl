target "default" {
  args = { R = jsonencode(formatdate("bogus Q", "2026-01-02T03:04:05Z")) }
}
