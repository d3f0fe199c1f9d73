target "a" {
 args={x=values({b=1,a=2})[0]}
}
