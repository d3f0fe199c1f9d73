variable "V" { default="vv" }
target "default" {
labels=["a"]
}
