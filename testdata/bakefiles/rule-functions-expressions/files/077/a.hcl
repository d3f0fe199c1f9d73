variable "V" {
 default="1"
}
function "f" {
 params=[x]
 result="${x}${V}"
}
target "a" {
 args={x=f("q")}
}
