target "a" { dockerfile="HTTPS://x/y.git" }
