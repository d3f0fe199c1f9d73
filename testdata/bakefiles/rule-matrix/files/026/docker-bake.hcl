target "app" {
 name=1
 matrix={v=["a"]}
}
