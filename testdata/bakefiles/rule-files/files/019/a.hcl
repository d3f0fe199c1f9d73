X="1"
target "default" {
args={a=X}
}
