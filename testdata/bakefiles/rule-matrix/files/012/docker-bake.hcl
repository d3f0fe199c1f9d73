target "app" {
 name="app-${v}"
 matrix={v={q="a",r="b"}}
 args={x=v}
}
