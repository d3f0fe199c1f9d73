target "default" {
ssh="x"
}
