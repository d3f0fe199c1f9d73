group "g" {targets=["x*"]}
target "xa" {}
