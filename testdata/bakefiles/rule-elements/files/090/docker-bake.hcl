target "a" {
 resources={memory="-1"}
}
