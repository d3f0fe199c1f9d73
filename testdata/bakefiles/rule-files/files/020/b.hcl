group "default" { targets=["b"] }
