target "a" {
  context="git://x/y"
 contexts={n="git://x/y"} 
}
target "b" {}
