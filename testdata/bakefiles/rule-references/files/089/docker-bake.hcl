target "a" { tags=["1"] }
target "a" { args={x=1} }
target "b" { tags=target.a.tags }
