variable "A" {
  type=bool
 default=["1"] 
}
target "default" {
args={a=jsonencode(A)}
}
