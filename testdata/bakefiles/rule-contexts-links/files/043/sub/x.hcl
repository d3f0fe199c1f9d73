target "a" {
  context="C:\\x"
 contexts={n="C:\\x"} 
}
target "b" {}
