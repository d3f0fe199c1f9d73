target "app" {
 name="app-${a}-${b}"
 matrix={a=["1","2"],b=["x","y"]}
 args={x="${a}${b}"}
}
