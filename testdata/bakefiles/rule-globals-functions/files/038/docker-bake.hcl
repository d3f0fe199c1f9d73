target "default" {
args={for x in ["a","b"]: x => upper(x)}
}
