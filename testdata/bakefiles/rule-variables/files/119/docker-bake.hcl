variable "A" {
 default="a"
 validation {
 condition=[]
 error_message=1
}
}
target "default" {

}
