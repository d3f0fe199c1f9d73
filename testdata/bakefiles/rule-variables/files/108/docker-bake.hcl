variable "A" {
 default="a"
 validation {
 condition="true"
 error_message="bad ${A}"
}
}
target "default" {

}
