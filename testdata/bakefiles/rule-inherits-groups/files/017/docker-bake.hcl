group "g" { targets=["a.b"] }
target "a_b" {}
