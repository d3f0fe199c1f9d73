variable "A" { default="${B}x" }
variable "B" { default="b" }
target "default" {
args={a=A}
}
