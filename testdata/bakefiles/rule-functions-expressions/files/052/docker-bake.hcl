target "a" {
 args={x=1==1?"y":"n"}
}
