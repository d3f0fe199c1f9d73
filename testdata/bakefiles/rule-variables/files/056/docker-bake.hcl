variable "A" { type=object({a=optional(string,"z")}) }
target "default" {
args={a=jsonencode(A)}
}
