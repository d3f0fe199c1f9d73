group "default" { targets=["default"] }
target "default" {}
