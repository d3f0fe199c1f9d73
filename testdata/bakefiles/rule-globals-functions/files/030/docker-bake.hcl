function "f" {
  params=[x]
 result=x 
}
function "f" {
  params=[x]
 result="2${x}" 
}
target "default" {
args={x=f("a")}
}
