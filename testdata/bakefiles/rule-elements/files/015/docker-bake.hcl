target "a" {
 output=[]
}
