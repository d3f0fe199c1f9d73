variable "A" { type=list }
target "default" {
args={a=jsonencode(A)}
}
