target "a" { dockerfile="file:///x//y" }
