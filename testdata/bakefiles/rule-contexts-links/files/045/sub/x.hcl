target "a" {
  context="a b"
 contexts={n="a b"} 
}
target "b" {}
