group "default" { targets = ["other"] }
