variable "A" {
 default=1
 validation {
 condition=f(A)
 error_message="x"
}
}
function "f" {
  params=[x]
 result=x>2 
}
target "default" {

}
