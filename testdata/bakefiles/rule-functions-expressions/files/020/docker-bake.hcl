target "a" {
 args={x=zipmap(["a"],[1]).a}
}
