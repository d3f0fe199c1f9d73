X="2"
variable "X" { default="3" }
