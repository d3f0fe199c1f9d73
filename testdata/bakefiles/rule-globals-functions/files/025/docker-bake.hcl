function "f" {
  params=[]
 variadic_params=rest
 result=join("-",rest) 
}
target "default" {
args={x=f("a","b")}
}
