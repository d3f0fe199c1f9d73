target "a" { contexts={b="target:g"} }
group "g" { targets=["a"] }
