target "default" {
args={a="a"+1}
}
