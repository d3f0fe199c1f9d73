variable "V" { default=length(target.b.cache-to) }
target "a" {
 tags=["x"]
 args={k="v"}
 output=["type=image"]
 secret=["id=s,src=p"]
 ssh=["k=p1"]
 attest=["type=sbom"]
 cache-from=["r"]
 platforms=["p"]
 resources={memory="1g"}
}
target "c" {
 args={k=V}
}
