variable "V" { default="vv" }
target "default" {
extra-hosts={a=null}
}
