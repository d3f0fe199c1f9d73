target "a" { dockerfile="ssh://git@x/y" }
