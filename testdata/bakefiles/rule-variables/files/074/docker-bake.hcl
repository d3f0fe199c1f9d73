variable "A" { type=list(nope) }
target "default" {
args={a=jsonencode(A)}
}
