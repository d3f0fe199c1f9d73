target "a" { dockerfile="cwd://" }
