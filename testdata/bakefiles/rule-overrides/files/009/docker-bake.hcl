target "a" {
  args={x=1}
 tags=["t"]
 secret=["id=s,env=E"]
 output=["type=image"] 
}
target "ab" { inherits=["a"] }
