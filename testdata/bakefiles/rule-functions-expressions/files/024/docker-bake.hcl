target "a" {
 args={x=convert(["1"],list(number))[0]}
}
