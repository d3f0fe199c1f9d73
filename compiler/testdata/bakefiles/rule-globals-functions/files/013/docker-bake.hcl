variable "A" "B" {}
