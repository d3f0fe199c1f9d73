target "default" {
call="1g"
}
