variable "A" {
 default="a"
 validation {
 condition=null
 error_message=nope
}
}
target "default" {

}
