function "f" {
 params=[]
 result="2"
}
target "a" {
 args={y=f()}
}
group "default" {
 targets=["a"]
}
