target "default" {
no-cache-filter=[]
}
