variable "A" { type=object({a=string}) }
target "default" {
args={a=jsonencode(A)}
}
