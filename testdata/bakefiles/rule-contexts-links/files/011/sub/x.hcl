target "a" {
  context="cwd://x/../y"
 contexts={n="cwd://x/../y"} 
}
target "b" {}
