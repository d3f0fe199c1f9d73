target "a" { contexts={b="target:b"} }
target "b" { contexts={b="target:a"} }
