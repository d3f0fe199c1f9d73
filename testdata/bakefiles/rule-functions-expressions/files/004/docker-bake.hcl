target "a" {
 args={x=coalesce(null,"b")}
}
