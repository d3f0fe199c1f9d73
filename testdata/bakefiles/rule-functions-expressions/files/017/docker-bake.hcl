target "a" {
 args={x=title("ab c")}
}
