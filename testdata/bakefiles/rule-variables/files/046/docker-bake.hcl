variable "A" { type=tuple([string,number]) }
target "default" {
args={a=jsonencode(A)}
}
