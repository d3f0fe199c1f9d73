function "f" {}
target "default" {

}
