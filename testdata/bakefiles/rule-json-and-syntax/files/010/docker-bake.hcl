target "default" {
args={SOURCE_DATE_EPOCH=null}
}
