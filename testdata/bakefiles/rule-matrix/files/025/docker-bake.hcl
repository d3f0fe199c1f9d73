target "app" {
 name="${v}-${g}"
 matrix={v=["a","b"]}
}
g=upper(v)
