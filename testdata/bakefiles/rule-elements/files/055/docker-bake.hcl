target "a" {
 secret=[{id="a",env="B",type="env"}]
}
