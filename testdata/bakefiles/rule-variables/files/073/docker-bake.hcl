variable "A" {
  type=null
 default=["1"] 
}
target "default" {
args={a=jsonencode(A)}
}
