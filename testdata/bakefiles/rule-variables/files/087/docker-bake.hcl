variable "A" { default="1" }
A="2"
target "default" {
args={a=A}
}
