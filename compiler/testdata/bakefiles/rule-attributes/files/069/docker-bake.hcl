target "default" {
context="${UNDEF}"
}
