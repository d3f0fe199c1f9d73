foo=bar
bar=foo
target "default" {
args={a=foo}
}
