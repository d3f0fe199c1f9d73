variable "A" {
  default="x"
 foo=1
 blah {} 
}
target "default" {

}
