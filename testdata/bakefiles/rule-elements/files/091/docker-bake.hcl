target "a" {
 resources=[]
}
