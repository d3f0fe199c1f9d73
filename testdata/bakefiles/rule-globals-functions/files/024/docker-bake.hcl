function "f" {
  params=[a]
 result=nope(a) 
}
target "default" {

}
