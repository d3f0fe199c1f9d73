target "a" {
 ulimits=["foo=1"]
}
