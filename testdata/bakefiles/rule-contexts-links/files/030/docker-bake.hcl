target "a" { dockerfile="docker-image://x" }
