target "a" {
 policy=[{filename="p",strict=true}]
}
