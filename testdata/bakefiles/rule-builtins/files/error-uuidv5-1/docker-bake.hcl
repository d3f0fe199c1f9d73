target "default" {
  args = { R = jsonencode(uuidv5("dns")) }
}
