target "a" {
 resources={cpuset-cpus="0-3",cpuset-mems="a"}
}
