target "a" {
  context="docker-image://x"
 contexts={n="docker-image://x"} 
}
target "b" {}
