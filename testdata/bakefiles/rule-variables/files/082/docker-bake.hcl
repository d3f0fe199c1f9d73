variable "A" { type=list(string) }
variable "A_JSON" { default="[]" }
target "default" {
args={a=jsonencode(A)}
}
