target "default" {
args={a={b=1}.c}
}
