function "f" {
  params=["a"]
 result=a 
}
target "default" {
args={x=f(1)}
}
