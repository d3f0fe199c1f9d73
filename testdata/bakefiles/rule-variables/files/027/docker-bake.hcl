variable "A" { type=any }
target "default" {
args={a=jsonencode(A)}
}
