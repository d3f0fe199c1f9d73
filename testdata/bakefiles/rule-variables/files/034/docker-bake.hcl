variable "A" { type=set(number) }
target "default" {
args={a=jsonencode(A)}
}
