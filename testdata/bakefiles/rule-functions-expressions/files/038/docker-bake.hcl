target "a" {
 args={x=slice(["a","b"],0,1)[0]}
}
