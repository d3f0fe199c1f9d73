variable "BAKE_CMD_CONTEXT" { default="1" }
target "default" {
args={a=BAKE_CMD_CONTEXT,b=BAKE_LOCAL_PLATFORM}
}
