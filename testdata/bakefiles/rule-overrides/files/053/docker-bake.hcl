target "a" { output=["type=docker"] }
target "b" {
  output=["type=registry","type=local,dest=x","type=docker,dest=q"]
 call="outline" 
}
target "_c" {}
group "g" {
  targets=["b","a"]
 description="dd" 
}
