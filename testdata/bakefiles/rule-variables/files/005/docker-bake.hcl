variable "A" { default=true }
target "default" {
pull=A
}
