target "default" {
args={a=<<EOT
foo ${upper("x")}
EOT
}
}
