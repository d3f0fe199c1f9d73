target "a" { args={x=1} }
