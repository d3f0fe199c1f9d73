variable "A" { type=map(string) }
target "default" {
args={a=jsonencode(A)}
}
