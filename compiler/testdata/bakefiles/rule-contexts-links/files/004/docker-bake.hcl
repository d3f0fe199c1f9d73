target "a" { dockerfile="" }
