target "app" {
 name="${v}"
 matrix={v=["a","b"]}
 args={v=v}
}
group "app" { targets=["a"] }
