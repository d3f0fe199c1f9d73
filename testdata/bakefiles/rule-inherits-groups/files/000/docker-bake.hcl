target "a" { inherits=["b"] }
target "b" {
  inherits=["a"]
 args={x=1} 
}
