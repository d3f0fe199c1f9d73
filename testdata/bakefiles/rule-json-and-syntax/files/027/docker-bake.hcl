target "default" {
tags=["${1}${["a"]}"]
}
