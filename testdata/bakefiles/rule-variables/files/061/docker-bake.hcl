variable "A" {
  type=list
 default=["1"] 
}
target "default" {
args={a=jsonencode(A)}
}
