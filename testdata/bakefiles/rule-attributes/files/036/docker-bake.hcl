target "default" {
description=[null]
}
