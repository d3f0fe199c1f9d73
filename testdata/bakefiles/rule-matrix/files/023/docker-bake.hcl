target "app" {
 name=target.n
 matrix={target=[{n="a"},{n="b"}]}
 args={x=target.n}
}
