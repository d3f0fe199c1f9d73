group "a" { targets=["b"] }
target "b" {}
group "b" { targets=["c"] }
target "c" {}
