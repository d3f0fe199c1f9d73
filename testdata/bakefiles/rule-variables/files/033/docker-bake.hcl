variable "A" {
  type=list(string)
 default=["1"] 
}
target "default" {
args={a=jsonencode(A)}
}
