target "default" {
description="x"
}
