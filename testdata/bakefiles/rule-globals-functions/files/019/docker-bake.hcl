function "f" {
  params=[a+1]
 result=a 
}
target "default" {

}
