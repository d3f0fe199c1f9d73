variable "A" { type=list(string) }
target "default" {
args={a=jsonencode(A)}
}
