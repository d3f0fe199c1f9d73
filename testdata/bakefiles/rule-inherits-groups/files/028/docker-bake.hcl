target "a" {
  args={x=1,y=2}
 labels={l=1}
 tags=["t"]
 platforms=["linux/amd64"]
 cache-from=["c1","c2"]
 cache-to=["o1"]
 output=["type=image"]
 secret=["id=s,env=E"]
 
 attest=["type=sbom"]
 annotations=["a=1"]
 no-cache-filter=["f"]
 ulimits=["nofile=1"]
 entitlements=["network.host"]
 extra-hosts={h="1"}
 contexts={c="."}
 network="host"
 description="d"
 policy=[{filename="p"}]
 resources={memory="1g"} 
}
target "a" {
  cache-to=[]
 output=[]
 tags=[]
 platforms=[] 
}
