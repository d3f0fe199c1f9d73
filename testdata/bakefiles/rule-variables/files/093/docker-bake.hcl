target="1"
target "default" {

}
