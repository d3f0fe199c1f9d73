target "a" { dockerfile="ftp://x/y" }
