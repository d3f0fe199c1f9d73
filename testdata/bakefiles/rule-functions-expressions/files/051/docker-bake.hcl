target "a" {
 args={x=<<-EOT
    a
      b
  EOT
}
}
