target "a" {
  context="target:b"
 contexts={n="target:b"} 
}
target "b" {}
