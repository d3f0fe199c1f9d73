target "a" {
 args={x=lookup({a=1},"b","c")}
}
