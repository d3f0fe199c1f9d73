variable "A" {
 default="a"
 validation {
 condition=null
 error_message=null
}
}
target "default" {

}
