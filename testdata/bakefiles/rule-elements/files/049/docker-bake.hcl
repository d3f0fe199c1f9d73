target "a" {
 cache-to=["a,b"]
}
