target "a" { dockerfile="C:\\x" }
