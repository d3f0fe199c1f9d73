target "app" {
 name="app-${v}"
 matrix=["a"]
 args={x=v}
}
