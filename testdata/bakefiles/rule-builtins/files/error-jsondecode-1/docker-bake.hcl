target "default" {
  args = { R = jsonencode(jsondecode("{")) }
}
