variable "A" {
 default="a"
 validation {
 condition=[]
 error_message=[]
}
}
target "default" {

}
