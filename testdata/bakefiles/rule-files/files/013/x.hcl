target "default" {

}
