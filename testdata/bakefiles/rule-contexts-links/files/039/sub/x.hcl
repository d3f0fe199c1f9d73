target "a" {
  context="file:///x//y"
 contexts={n="file:///x//y"} 
}
target "b" {}
