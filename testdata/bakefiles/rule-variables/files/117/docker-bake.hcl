variable "A" {
 default="a"
 validation {
 condition=upper(A)=="A"
 error_message=nope
}
}
target "default" {

}
