variable "V" { default="vv" }
target "default" {
args={(V)="x"}
}
