variable "A" {
 default="a"
 validation {
 condition=A==""
 error_message="bad ${A}"
}
}
target "default" {

}
