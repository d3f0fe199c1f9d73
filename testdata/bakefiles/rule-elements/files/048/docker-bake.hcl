target "a" {
 cache-to=["TYPE=gha,Scope=A"]
}
