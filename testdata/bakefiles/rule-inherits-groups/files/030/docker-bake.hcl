target "a" {
  cache-from=["A","B","A","C","B","D"]
 cache-to=["A","B","A","C"]
 output=["type=image","type=local,dest=q","type=image","type=oci,dest=z"] 
}
