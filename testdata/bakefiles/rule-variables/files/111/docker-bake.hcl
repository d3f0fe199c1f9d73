variable "A" {
 default="a"
 validation {
 condition=nope
 error_message=null
}
}
target "default" {

}
