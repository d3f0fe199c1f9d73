function "target" {
  params=[x]
 result="mine" 
}
target "default" {
args={x=target("a")}
}
