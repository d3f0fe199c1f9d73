target "a" {
 output=["type=image","type=docker"]
}
