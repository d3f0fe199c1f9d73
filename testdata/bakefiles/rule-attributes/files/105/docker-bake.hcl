variable "V" { default="vv" }
target "default" {
labels={(V)="x"}
}
