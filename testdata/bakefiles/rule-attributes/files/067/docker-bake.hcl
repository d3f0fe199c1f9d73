target "default" {
context=null
}
