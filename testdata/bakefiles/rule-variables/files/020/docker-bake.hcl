variable "A" { type=number }
target "default" {
args={a=jsonencode(A)}
}
