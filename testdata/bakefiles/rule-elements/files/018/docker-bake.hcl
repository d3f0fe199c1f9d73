target "a" {
 output=["type=image,push=false"]
}
