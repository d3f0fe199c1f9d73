target "default" {
inherits=[]
}
