target "app" {
 name="app-z"
 matrix={}
 args={x=1}
}
