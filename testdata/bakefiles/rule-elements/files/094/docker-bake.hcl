target "a" {
 shm-size="0"
}
