target "default" {
  args = { R = jsonencode(timeadd("2026-01-31T00:00:00Z", "x")) }
}
