target "a" {
 args={x=[{a=1}].*.a}
}
