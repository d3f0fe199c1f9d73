target "app" {
 name="app-${v.n}"
 matrix={v=[{n="a",t="1"},{n="b",t="2"}]}
 args={x=v.t}
}
