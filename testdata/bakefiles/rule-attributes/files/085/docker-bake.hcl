target "default" {
call={a=1}
}
