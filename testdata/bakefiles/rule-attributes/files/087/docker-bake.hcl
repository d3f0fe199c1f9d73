target "default" {
dockerfile-inline=null
}
