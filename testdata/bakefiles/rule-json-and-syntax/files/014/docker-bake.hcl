target "default" {
args={a=1
b=2
}
