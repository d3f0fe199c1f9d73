target "default" {
ssh=[1]
}
