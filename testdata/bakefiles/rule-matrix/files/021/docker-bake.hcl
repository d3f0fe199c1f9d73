target "app" {
 name="${v}"
 matrix={v=["a","b"]}
 args={v=v}
}
target "a" { args={w=1} }
