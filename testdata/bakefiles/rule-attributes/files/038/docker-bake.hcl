target "default" {
description=toset(["type=x"])
}
