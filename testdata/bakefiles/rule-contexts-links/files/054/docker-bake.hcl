target "a" { contexts={b="target:b"} }
target "b" {
  output=["type=image"]
 contexts={c="target:c"} 
}
target "c" { entitlements=["security.insecure"] }
