target "default" {
  args = { R = jsonencode(semvercmp("x", ">1")) }
}
