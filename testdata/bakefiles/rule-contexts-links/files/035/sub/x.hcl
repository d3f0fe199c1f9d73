target "a" {
  context="HTTPS://x/y.git"
 contexts={n="HTTPS://x/y.git"} 
}
target "b" {}
