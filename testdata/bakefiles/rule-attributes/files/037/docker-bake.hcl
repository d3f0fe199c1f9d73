target "default" {
description=[1]
}
