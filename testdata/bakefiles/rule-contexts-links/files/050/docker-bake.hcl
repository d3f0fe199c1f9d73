target "a" { contexts={b="target:nope"} }
