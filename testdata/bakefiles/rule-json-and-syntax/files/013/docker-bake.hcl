target "default" {
dockerfile-inline=<<EOT
FROM x
RUN echo $${A} %%{x}
EOT

}
