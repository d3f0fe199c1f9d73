target "default" {
args={a=upper(1,2)}
}
