target "a" { dockerfile="https://x.com/a.tar" }
