target "a" { dockerfile="a b" }
