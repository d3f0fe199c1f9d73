variable "A" { default=["a"] }
target "default" {
tags=A
}
