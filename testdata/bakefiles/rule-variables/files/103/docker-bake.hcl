variable "A" {
 default="a"
 validation {
 condition="x"
 error_message="bad ${A}"
}
}
target "default" {

}
