target "app" {
 name="app-${v}"
 matrix={v=[]}
 args={x=v}
}
