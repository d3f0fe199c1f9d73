target "a" { dockerfile="/abs/../x" }
