target "default" {
args={x=try(nope.x,"a"),y=try(nope.x,"b")}
}
