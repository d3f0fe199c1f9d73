target "a" {
 args={x="x"["y"]}
}
