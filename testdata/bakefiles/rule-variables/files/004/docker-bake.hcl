variable "A" { default=1 }
target "default" {
args={a=A+1}
}
