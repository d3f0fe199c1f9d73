target "d3" { context="z" }
target "default" {}
