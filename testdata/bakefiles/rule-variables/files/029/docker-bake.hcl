variable "A" {
  type=any
 default=["1"] 
}
target "default" {
args={a=jsonencode(A)}
}
