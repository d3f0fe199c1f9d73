target "a" {
 args={x={}}
}
