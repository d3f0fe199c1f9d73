target "a" {
 resources={memory=5}
}
