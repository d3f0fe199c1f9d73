target "default" {
annotations=[]
}
