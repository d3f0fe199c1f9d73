variable "V" { default="vv" }
target "default" {
contexts={(V)="x"}
}
