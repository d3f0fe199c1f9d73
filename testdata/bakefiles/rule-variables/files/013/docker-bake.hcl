variable "A" { default="x" }
target "default" {
args={a=A}
}
