target "a" {
  context="ftp://x/y"
 contexts={n="ftp://x/y"} 
}
target "b" {}
