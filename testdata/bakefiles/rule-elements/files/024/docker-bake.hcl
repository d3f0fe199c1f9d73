target "a" {
 output=["type=cacheonly"]
}
