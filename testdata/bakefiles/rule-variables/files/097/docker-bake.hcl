variable "A" {
 default="a"
 validation {
 condition=A!=""
 error_message=nope
}
}
target "default" {

}
