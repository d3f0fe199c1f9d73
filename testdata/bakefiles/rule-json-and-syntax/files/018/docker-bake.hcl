target "default" {
args={a=1,a=2}
}
