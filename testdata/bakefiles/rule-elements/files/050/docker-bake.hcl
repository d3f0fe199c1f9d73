target "a" {
 cache-to=[{type="registry",ref="x",n=1}]
}
