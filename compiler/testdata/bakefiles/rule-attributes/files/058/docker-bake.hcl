target "default" {
ulimits=[]
}
