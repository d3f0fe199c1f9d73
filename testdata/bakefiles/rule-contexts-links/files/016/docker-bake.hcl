target "a" { dockerfile="git@github.com:a/b.git#m:d" }
