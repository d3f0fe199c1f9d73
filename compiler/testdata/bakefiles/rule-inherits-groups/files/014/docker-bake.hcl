target "default" {}
target "b" {}
