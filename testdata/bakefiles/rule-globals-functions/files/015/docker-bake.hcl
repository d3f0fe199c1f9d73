function "f" { params=[] }
target "default" {

}
