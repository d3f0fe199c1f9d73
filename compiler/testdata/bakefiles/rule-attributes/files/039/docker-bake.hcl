target "default" {
tags=[null]
}
