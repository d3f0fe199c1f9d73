target "a" {
 args={x=trimspace(" a ")}
}
