variable "A" {
 default="a"
 validation {
 condition=nope
 error_message=nope
}
}
target "default" {

}
