target "default" {
  args = { R = jsonencode(try(jsondecode("{"))) }
}
