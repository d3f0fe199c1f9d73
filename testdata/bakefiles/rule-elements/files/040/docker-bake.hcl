target "a" {
 output=[{type="image",push=true}]
}
