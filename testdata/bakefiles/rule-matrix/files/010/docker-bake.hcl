target "app" {
 name="app-${v}"
 matrix={v=null}
 args={x=1}
}
