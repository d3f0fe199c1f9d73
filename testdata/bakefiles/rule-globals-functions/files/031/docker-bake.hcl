variable "A" { default="a" }
function "f" {
  params=[]
 result="${A}${B}" 
}
B="b"
target "default" {
args={x=f()}
}
