target "a" {
  context="https://x.com/a.tar"
 contexts={n="https://x.com/a.tar"} 
}
target "b" {}
