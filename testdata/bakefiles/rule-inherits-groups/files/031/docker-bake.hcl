target "a" {
  attest=["type=sbom","type=provenance","type=sbom,disabled=true"]
 secret=["id=a,env=X","id=b,env=Y","id=a,env=Z"] 
}
