target "app" {
 name="${v}"
 matrix={v=["a","b"]}
 tags=["t-${v}"]
}
target "z" {
  tags=concat(target.a.tags,target.b.tags)
 }
