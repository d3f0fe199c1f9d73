A="2"
target "default" {
args={a=A}
}
