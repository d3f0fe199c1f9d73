variable "A" {
 default=1
 validation {
 condition=G
 error_message="x"
}
}
G=false
target "default" {

}
