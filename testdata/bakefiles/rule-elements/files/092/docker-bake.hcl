target "a" {
 shm-size="1g"
}
