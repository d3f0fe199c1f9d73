target "a" {
  context="cwd://"
 contexts={n="cwd://"} 
}
target "b" {}
