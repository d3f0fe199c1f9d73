variable "A" {
 default="a"
 validation {
 condition=A!=""
 error_message=null
}
}
target "default" {

}
