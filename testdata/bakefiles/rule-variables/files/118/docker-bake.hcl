variable "A" {
 default="a"
 validation {
 condition=[]
 error_message="bad ${A}"
}
}
target "default" {

}
