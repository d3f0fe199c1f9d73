variable "A" {
  type=tuple([string,number])
 default=["1"] 
}
target "default" {
args={a=jsonencode(A)}
}
