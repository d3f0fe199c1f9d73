variable "A" {
 default="a"
 validation {
 condition="x"
 error_message=[]
}
}
target "default" {

}
