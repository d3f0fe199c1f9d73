target "a" {
 args={x=semvercmp("1.2.3",">= 1.0")}
}
