target "a" {
 cache-to=["type=,ref=x"]
}
