target "a" {
 secret=["type=env,id=a,src=B"]
}
