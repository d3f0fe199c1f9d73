target "a" {
 args={x=split(",","a,b")[1]}
}
