target "default" {
args={a=regex_replace("aa","a","b")}
}
