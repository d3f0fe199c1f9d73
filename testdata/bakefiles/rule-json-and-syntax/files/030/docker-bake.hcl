target "default" {
args={a=true?1:"x"}
}
