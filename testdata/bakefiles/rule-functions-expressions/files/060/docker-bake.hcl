target "a" {
 args={x=null}
}
