target "app" {
 name="app-${v}.x"
 matrix={v=["a"]}
 args={x=v}
}
