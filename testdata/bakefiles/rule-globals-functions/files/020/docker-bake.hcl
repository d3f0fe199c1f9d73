function "f" {
  params=a
 result=a 
}
target "default" {

}
