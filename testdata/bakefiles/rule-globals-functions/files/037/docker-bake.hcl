target "default" {
tags=[nope,nope]
}
