target "a" {
  context="ssh://git@x/y"
 contexts={n="ssh://git@x/y"} 
}
target "b" {}
