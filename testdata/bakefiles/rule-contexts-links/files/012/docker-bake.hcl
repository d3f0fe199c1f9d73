target "a" { dockerfile="https://github.com/a/b.git" }
