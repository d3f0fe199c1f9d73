foo=UNDEF
target "default" {

}
