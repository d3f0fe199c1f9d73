target "a" {
 args={x=chomp("a\n")}
}
