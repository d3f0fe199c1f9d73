target "app" {
 matrix={v=["a"]}
 args={v=v}
}
