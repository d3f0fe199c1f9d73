target "d3" { args={x=1} }
target "d6" { inherits=["default"] }
target "d7" {
  inherits=["default"]
 context="." 
}
