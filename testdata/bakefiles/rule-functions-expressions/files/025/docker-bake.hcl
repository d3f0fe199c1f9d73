target "a" {
 args={x=reverselist(["a","b"])[0]}
}
