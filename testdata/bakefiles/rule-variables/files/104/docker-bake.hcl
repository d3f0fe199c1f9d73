variable "A" {
 default="a"
 validation {
 condition="x"
 error_message=1
}
}
target "default" {

}
