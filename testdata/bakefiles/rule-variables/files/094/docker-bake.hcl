variable "A" {
  default="x"
 description=B 
}
target "default" {

}
