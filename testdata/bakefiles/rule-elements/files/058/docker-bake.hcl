target "a" {
 secret=["id=a,src=nope"]
}
