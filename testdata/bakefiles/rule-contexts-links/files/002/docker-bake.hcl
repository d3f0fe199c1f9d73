target "a" { dockerfile="./" }
