target "a" {
 ulimits=["nofile=1:2"]
}
