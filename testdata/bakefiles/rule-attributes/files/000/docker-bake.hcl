target "default" {
foo="bar"
blah { x=1 }
args { a=1 }
}
