variable "A" {
  type=set(number)
 default=["1"] 
}
target "default" {
args={a=jsonencode(A)}
}
