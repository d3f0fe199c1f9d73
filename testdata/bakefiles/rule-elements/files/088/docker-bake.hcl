target "a" {
 resources={nope=1}
}
