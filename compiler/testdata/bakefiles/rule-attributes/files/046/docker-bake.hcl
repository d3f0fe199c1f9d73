target "default" {
platforms=[]
}
