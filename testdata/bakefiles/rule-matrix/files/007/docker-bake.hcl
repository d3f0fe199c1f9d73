target "app" {
 name="app-${v}"
 matrix={v="a"}
 args={x=v}
}
