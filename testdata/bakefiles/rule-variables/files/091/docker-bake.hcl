variable "target" { default="1" }
target "default" {
args={a=target}
}
