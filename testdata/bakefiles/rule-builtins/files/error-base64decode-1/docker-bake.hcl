target "default" {
  args = { R = jsonencode(base64decode("%")) }
}
