group "a b" { targets=[] }
