variable "A" {
 default="a"
 validation {
 condition=1
 error_message=nope
}
}
target "default" {

}
