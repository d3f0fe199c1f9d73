target "default" {
args={a=semvercmp("1.2.3",">=1")}
}
