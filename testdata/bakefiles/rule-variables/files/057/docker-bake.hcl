variable "A" {
  type=object({a=optional(string,"z")})
 default=["1"] 
}
target "default" {
args={a=jsonencode(A)}
}
