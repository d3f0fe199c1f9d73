target "default" {
network=null
}
