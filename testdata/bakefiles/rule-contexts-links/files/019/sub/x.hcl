target "a" {
  context="github.com/a/b"
 contexts={n="github.com/a/b"} 
}
target "b" {}
