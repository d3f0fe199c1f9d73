target "app" {
 name="x"
}
