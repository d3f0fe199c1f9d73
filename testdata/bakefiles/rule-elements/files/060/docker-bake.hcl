target "a" {
 ssh=["k=a,b"]
}
