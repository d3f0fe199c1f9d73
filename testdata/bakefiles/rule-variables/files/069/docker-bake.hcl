variable "A" {
  type="string"
 default=["1"] 
}
target "default" {
args={a=jsonencode(A)}
}
