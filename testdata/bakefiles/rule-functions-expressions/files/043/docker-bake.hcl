target "a" {
 args={x=jsonencode({a=[1,null]})}
}
