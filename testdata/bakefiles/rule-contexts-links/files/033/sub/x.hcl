target "a" {
  context="oci-layout://x"
 contexts={n="oci-layout://x"} 
}
target "b" {}
