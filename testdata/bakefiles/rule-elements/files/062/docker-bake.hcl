target "a" {
 ssh=[{id="k"}]
}
