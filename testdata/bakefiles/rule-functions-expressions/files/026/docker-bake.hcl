target "a" {
 args={x=strlen("é")}
}
