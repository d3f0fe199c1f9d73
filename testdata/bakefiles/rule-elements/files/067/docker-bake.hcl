target "a" {
 policy=[{log-level="debug"}]
}
