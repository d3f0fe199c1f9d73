target "app" {
 name="${v}"
 matrix={v=["a","b"]}
 args={x=target.a.name,y=target.b.args.z}
}
