target "a" {
  platforms=["linux/amd64","linux/arm64"]
 contexts={b="target:b"} 
}
target "b" { platforms=["linux/amd64","linux/arm/v7"] }
