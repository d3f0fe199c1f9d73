variable "A" {
 default="a"
 validation {
 condition=upper(A)=="A"
 error_message=null
}
}
target "default" {

}
