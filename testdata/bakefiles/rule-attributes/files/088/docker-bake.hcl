target "default" {
dockerfile-inline=["a"]
}
