target "default" {
dockerfile="true"
}
