function "f" {
 params=[]
 result="1"
}
target "a" {
 args={x=f()}
}
