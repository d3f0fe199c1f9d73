target "a" { dockerfile="-" }
