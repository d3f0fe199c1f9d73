# Base images made from what this machine has, for builds without Docker Hub.
#
# dbake's local nodes look for docker.io images in the local registry first, so
# after `dbake build` in this directory every `FROM busybox`, `FROM golang:1` and
# `FROM static:1` resolves to these.

# host:port of the local registry; dbake sets it.
variable "DBAKE_REGISTRY" {
  default = "localhost:5000"
}

# The directory of a statically linked busybox (Debian: package busybox-static).
variable "BUSYBOX_DIR" {
  default = "/usr/bin"
}

variable "BUSYBOX_VERSION" {
  default     = "1"
  description = "Version of that busybox, such as 1.36.1"
}

# The Go tree to make an image of: `go env GOROOT`.
variable "GOROOT" {
  default = "/usr/local/go"
}

variable "GO_VERSION" {
  default     = "1"
  description = "Version of that Go tree, such as 1.26.8"
}

# references names an image by its version and by each shorter form of it, as the
# official images are: 1.26.8, 1.26, 1, latest.
function "references" {
  params = [name, version]
  result = [for tag in distinct([
    version,
    join(".", slice(split(".", version), 0, min(2, length(split(".", version))))),
    split(".", version)[0],
    "latest",
  ]) : "${DBAKE_REGISTRY}/library/${name}:${tag}"]
}

group "default" {
  targets = ["busybox", "static", "golang"]
}

target "_base" {
  args = {
    # The same input gives the same image, whenever it is built: no time of today in
    # it, and no provenance, which would tell it.
    SOURCE_DATE_EPOCH = "0"
  }
  attest = ["type=provenance,disabled=true"]
  # Pulled from this very machine: compressing would only cost time.
  output = ["type=image,push=true,rewrite-timestamp=true,compression=uncompressed"]
}

target "busybox" {
  inherits = ["_base"]
  context  = "busybox"
  contexts = {
    host = BUSYBOX_DIR
  }
  tags = references("busybox", BUSYBOX_VERSION)
}

# Nothing but what a static binary may ask for: users, a place for temporary files.
target "static" {
  inherits = ["_base"]
  context  = "static"
  contexts = {
    busybox = "target:busybox"
  }
  tags = references("static", "1")
}

target "golang" {
  inherits = ["_base"]
  context  = "golang"
  contexts = {
    busybox = "target:busybox"
    goroot  = GOROOT
  }
  tags = references("golang", GO_VERSION)
}
