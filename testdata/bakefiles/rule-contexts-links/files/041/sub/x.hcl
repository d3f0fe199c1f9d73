target "a" {
  context="git@x:y?ref=a"
 contexts={n="git@x:y?ref=a"} 
}
target "b" {}
