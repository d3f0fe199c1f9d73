target "default" {
tags=null
args=null
contexts=null
pull=null
context=null
target=null
inherits=null
platforms=null
}
