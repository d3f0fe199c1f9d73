target "z" {tags=target.a.tags}
target "a" { tags=["1"] }
target "y" {tags=target.a.tags}
target "a" { tags=["2"] }
target "b" { tags=target.a.tags }
