target "base" {
 cache-from = ["1","2","1","4","2","5"]
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
target "c4" {
 inherits=["c3","c2"]
 cache-from=["r","s"]
}
