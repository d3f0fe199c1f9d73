variable "A" { type=nope }
target "default" {
args={a=jsonencode(A)}
}
