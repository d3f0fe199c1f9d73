variable "A" {
  type=map(string)
 default=["1"] 
}
target "default" {
args={a=jsonencode(A)}
}
