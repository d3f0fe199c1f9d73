target "a" { dockerfile="git://x/y" }
