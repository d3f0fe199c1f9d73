function "f" {
  params=[a]
 result=a
 extra=1 
}
target "default" {

}
