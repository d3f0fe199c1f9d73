function "f" {
  params=[a]
 result="${a}-${b}" 
}
target "default" {

}
