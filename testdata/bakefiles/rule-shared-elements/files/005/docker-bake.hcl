target "base" {
 cache-from = ["a,b,c","","","x"]
}
target "c1" {
 inherits=["base"]
 cache-from=["y1"]
}
target "c2" {
 inherits=["base"]
 cache-from=["y2"]
}
