target "a" { tags=["1"] }
target "a" { tags=["2"] }
target "b" { tags=target.a.tags }
