variable "A" { default=null }
target "default" {
args={a=A}
}
