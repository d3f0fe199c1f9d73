target "default" {
args={a="x \u00e9é"}
annotations=["a=${"\$"}{x}"]
}
