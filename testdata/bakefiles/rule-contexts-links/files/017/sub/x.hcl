target "a" {
  context="git@github.com:a/b.git#m:d"
 contexts={n="git@github.com:a/b.git#m:d"} 
}
target "b" {}
