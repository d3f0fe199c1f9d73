target "default" {
 contexts={x="rel"}
}
target "d2" { context=target.default.context }
target "d3" { context="y" }
target "d4" { context=target.d3.context }
target "d5" { inherits=["d3"] }
