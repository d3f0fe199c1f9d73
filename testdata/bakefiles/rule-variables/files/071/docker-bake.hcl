variable "A" { type=null }
target "default" {
args={a=jsonencode(A)}
}
