target "default" {
secret=[1]
}
