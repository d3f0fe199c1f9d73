group "g" { targets=null }
