blah "x" {}
target "default" {

}
