target "app" {
 name=upper(v)
 matrix={v=split(",",L)}
}
L="a,b"
