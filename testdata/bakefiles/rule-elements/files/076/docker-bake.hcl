target "a" {
 ulimits=["nofile=x"]
}
