group "g" { targets=["a","a","nope"] }
target "a" {}
