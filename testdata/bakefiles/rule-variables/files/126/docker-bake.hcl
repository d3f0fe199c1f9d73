variable "A" {
 default=1
 validation {
 condition=A>1
 error_message="x"
}
 validation {
 condition=A>2
 error_message="y"
}
}
target "default" {

}
