target "default" {
  args = { R = jsonencode(formattimestamp("YYYY", "yesterday")) }
}
