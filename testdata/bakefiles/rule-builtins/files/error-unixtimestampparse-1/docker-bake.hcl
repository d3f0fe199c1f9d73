target "default" {
  args = { R = jsonencode(unixtimestampparse(1.5)) }
}
