target "base" {
 cache-from = ["1","2","3","4","5","5"]
}
target "c1" {
 inherits=["base"]
 cache-from=["y1"]
}
target "c2" {
 inherits=["base"]
 cache-from=["y2"]
}
