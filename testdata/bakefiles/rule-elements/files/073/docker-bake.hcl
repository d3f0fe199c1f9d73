target "a" {
 annotations=["a=${1}"]
}
