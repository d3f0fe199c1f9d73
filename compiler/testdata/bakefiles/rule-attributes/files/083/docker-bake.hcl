target "default" {
call="x"
}
