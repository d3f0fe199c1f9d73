variable "A" {
 default="a"
 validation {
 condition="true"
 error_message=[]
}
}
target "default" {

}
