target "default" {
tags=[["x"]]
}
