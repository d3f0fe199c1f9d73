target "a" {
  context="../x/../y"
 contexts={n="../x/../y"} 
}
target "b" {}
