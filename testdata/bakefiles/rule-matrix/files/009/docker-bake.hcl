target "app" {
 name="app-${v}"
 matrix=null
 args={x=1}
}
