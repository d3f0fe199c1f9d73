target "b" { tags=["q"] }
