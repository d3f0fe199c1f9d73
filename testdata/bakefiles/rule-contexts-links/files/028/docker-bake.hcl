target "a" { dockerfile="target:b" }
