target "default" {
args={x=can(nope.x)?"y":"n"}
}
