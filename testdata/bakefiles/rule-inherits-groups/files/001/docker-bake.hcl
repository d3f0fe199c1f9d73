target "a" { inherits=["nope"] }
