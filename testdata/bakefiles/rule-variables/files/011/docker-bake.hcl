variable "A" { default={a=1} }
target "default" {
args=A
}
