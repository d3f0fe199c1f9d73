variable "A" {
  type=nope
 default=["1"] 
}
target "default" {
args={a=jsonencode(A)}
}
