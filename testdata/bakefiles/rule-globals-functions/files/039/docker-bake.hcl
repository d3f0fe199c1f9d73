target "default" {
tags=[for x in UND: x]
}
