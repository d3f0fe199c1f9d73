variable "A" {
  type=object({a=string})
 default=["1"] 
}
target "default" {
args={a=jsonencode(A)}
}
