blah {}
target "default" {

}
