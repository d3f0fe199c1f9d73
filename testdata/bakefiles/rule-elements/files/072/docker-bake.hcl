target "a" {
 annotations=["index[x y]:a=b"]
}
