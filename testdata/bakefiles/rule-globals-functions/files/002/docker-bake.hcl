foo=bar
bar=foo
target "default" {

}
