target "a" {
 output=["type=registry","type=image","type=registry","type=local,dest=z"]
}
