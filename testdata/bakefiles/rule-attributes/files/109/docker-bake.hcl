variable "V" { default="vv" }
target "default" {
contexts={a=["x"]}
}
