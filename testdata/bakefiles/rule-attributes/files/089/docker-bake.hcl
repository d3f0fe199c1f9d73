target "default" {
dockerfile-inline="${UNDEF}"
}
