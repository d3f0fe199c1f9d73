function "f" {
  params=[x]
 result=x 
}
target "default" {
args={x=f("a","b")}
}
