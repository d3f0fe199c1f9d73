variable "A" {
 default="a"
 validation {
 condition="true"
 error_message=1
}
}
target "default" {

}
