variable "STAGE" { default = "." }
variable "DEST" { default = "dbake-oci.tar" }
variable "VERSION" { default = "dev" }
variable "REVISION" { default = "" }

target "default" {
  context    = STAGE
  dockerfile = "Dockerfile"
  platforms  = ["linux/amd64", "linux/arm64"]
  labels = {
    "org.opencontainers.image.title"    = "dbake"
    "org.opencontainers.image.version"  = VERSION
    "org.opencontainers.image.revision" = REVISION
    "org.opencontainers.image.licenses" = "Apache-2.0"
  }
  attest = ["type=provenance,disabled=true", "type=sbom,disabled=true"]
  output = ["type=oci,dest=${DEST},rewrite-timestamp=true"]
}
