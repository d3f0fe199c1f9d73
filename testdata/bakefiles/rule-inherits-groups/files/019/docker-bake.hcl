target "a" {}
target "ab" {}
group "ag" { targets=["a"] }
