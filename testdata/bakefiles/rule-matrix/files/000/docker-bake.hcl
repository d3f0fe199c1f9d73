target "app" {
 name="app-${v}"
 matrix={v=["a","b"]}
 args={x=v}
}
