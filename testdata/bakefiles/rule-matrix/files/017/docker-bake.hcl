target "app" {
 matrix={v=["a","b"]}
 args={v=v}
}
