group "g" {
  matrix={a=["x"]}
 targets=[] 
}
