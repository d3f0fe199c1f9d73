target "a" { inherits=["base"] }
target "base" { tags=["q"] }
target "b" { args={x=jsonencode(target.a.tags)} }
