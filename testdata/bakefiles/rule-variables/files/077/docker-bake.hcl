variable "A" {
  type=list(nope)
 default=["1"] 
}
target "default" {
args={a=jsonencode(A)}
}
