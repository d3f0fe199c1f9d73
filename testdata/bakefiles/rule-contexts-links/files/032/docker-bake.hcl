target "a" { dockerfile="oci-layout://x" }
