target "a" {
 args={x=formattimestamp("YYYY",0)}
}
