target "a" {
  context="https://github.com/a/b.git"
 contexts={n="https://github.com/a/b.git"} 
}
target "b" {}
