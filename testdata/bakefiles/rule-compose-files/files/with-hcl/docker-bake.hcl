variable "TAG" { default = "v1" }
target "app" {
  args = { B = "hcl", C = TAG }
  cache-from = ["hcl"]
  platforms = ["linux/arm64"]
}
target "extra" { inherits = ["app"] }
