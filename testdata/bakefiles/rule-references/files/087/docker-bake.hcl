target "a" {
  args={x=target.b.tags[0]}
 tags=["1"] 
}
target "b" {
  tags=target.a.tags
 args=target.a.args 
}
