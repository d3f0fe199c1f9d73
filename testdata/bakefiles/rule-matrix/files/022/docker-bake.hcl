target "app" {
 name=target
 matrix={target=["a","b"]}
}
