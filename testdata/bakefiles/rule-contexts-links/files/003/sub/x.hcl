target "a" {
  context="./"
 contexts={n="./"} 
}
target "b" {}
