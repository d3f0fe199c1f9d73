target "a" {
 policy=[{disabled=1}]
}
