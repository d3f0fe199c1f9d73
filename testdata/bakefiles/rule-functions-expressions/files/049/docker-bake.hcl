target "a" {
 args={x="%{for x in ["a","b"]}${x},%{endfor}"}
}
