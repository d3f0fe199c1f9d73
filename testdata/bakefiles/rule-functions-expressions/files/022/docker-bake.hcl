target "a" {
 args={x=chunklist(["a","b","c"],2)[1][0]}
}
