function "upper" {
  params=[x]
 result="mine" 
}
target "default" {
args={x=upper("a")}
}
