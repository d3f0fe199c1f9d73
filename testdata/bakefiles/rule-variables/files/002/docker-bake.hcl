variable "A" {}
target "default" {
args={a=A}
}
