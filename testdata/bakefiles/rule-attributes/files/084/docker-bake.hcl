target "default" {
call=1
}
