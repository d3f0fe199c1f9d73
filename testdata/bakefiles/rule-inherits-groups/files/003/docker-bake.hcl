target "a" { inherits=["g"] }
group "g" { targets=["a"] }
