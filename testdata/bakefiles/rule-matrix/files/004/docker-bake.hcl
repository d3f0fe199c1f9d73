target "app" {
 name="app-${v}"
 matrix={}
 args={x=1}
}
