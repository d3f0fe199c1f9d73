target "a" {
 policy=["filename=a,filename=b"]
}
