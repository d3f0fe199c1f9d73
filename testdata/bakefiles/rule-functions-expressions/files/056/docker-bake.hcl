target "a" {
 args={x="a"=="a"&&false}
}
