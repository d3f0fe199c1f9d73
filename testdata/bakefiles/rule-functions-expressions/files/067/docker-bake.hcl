target "a" {
 args={x="\u00e9\n\t\""}
}
