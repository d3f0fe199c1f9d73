target "default" {
tags=[]
}
