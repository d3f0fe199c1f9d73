variable "A" { type=map(list(string)) }
target "default" {
args={a=jsonencode(A)}
}
