target "app" {
 name="app-${v}"
 matrix={v=["a","b"]}
 inherits=["base"]
}
target "base" { args={q=1} }
