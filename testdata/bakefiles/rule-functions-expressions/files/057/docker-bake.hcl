target "a" {
 args={x=[{a=1},{a=2}][*].a}
}
