variable "A" {
  type=number
 default=["1"] 
}
target "default" {
args={a=jsonencode(A)}
}
