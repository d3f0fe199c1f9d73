target "a" { dockerfile="github.com/a/b" }
