target "a" {
 args={x="$${a}%%{b}"}
}
