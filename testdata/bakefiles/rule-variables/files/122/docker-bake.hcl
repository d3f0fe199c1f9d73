variable "A" {
 validation {
 condition=false 
}
}
target "default" {

}
