target "base" {
 secret=["id=s,env=E","id=t,env=F"]
 output=["type=image,name=q","type=docker"]
}
target "a" {
 inherits=["base"]
}
target "b" {
 inherits=["base"]
 secret=["id=u,env=G"]
}
