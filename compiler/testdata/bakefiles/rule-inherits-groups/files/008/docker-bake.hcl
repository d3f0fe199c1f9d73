group "g" { targets=[] }
