target "a" { args=target.a.args }
