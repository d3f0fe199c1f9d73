target "a" {
 args={x={for k,v in {a=1}: upper(k)=>v}["A"]}
}
