variable "A" {
 validation {
 condition=true
 error_message="x"
 foo=1 
}
}
target "default" {

}
