variable "A" { type="string" }
target "default" {
args={a=jsonencode(A)}
}
