target "a" {
 secret=["src=docker-bake.hcl"]
}
