variable "A" {
 default="a"
 validation {
 condition=length(A)>3
 error_message=1
}
}
target "default" {

}
