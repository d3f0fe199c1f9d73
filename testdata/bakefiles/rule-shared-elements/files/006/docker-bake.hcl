target "base" {
 cache-from = ["", "x"]
}
target "c1" {
 inherits=["base"]
 cache-from=["y1"]
}
target "c2" {
 inherits=["base"]
 cache-from=["y2"]
}
target "c3" {
 inherits=["c1","c2"]
 cache-from=["q"]
}
