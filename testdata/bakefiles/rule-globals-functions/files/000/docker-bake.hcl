foo="bar"
target "default" {
args={a=foo}
}
