target "default" {
shm-size=""
}
