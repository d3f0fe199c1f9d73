variable "A" { type=bool }
target "default" {
args={a=jsonencode(A)}
}
