group "default" { targets=["a"] }
target "a" { args={x=1} }
