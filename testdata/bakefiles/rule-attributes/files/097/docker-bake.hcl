variable "V" { default="vv" }
target "default" {
args={a=null}
}
