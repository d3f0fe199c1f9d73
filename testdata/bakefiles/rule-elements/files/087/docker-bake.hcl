target "a" {
 resources={cpu-shares=1.5}
}
