target "default" {
args={a="unterminated}
}
