target "app" {
 name="app-x"
 matrix={v=["a","b"]}
 args={x=v}
}
