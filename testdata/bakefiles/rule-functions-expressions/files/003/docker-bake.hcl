target "a" {
 args={x=cidrsubnet("10.0.0.0/8",8,2)}
}
