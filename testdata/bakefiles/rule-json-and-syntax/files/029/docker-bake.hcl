target "default" {
args={a=split("x")}
}
