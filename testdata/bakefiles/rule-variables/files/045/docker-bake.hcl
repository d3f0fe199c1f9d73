variable "A" {
  type=map(list(string))
 default=["1"] 
}
target "default" {
args={a=jsonencode(A)}
}
