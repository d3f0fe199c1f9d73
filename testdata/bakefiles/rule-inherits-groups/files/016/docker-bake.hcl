group "all" { targets=["default"] }
group "default" { targets=["a"] }
target "a" {}
