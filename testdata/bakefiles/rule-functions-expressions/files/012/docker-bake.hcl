target "a" {
 args={x=regexall("a","aa")[1]}
}
