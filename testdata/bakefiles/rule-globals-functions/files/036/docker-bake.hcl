target "default" {
args={x="${nope}"}
tags=[nope2]
}
