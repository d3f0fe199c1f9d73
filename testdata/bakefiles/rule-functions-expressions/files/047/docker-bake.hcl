target "a" {
 args={x=[for i,v in ["a","b"]: "${i}${v}" if v!="a"][0]}
}
