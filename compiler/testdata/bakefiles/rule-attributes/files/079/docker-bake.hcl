target "default" {
network="${UNDEF}"
}
