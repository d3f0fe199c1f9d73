target "default" {
args={x=nope("a")}
}
