target "default" {
args={x=try(nope,"a")}
}
