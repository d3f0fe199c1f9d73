group "g" {
  name="x"
 targets=[] 
}
