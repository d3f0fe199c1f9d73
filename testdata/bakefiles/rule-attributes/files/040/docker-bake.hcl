target "default" {
tags=["a","","a","b"]
}
