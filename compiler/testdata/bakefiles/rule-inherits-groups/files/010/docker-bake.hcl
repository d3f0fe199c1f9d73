group "g" { targets="a" }
