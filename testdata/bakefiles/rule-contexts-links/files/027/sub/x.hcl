target "a" {
  context="/abs/../x"
 contexts={n="/abs/../x"} 
}
target "b" {}
