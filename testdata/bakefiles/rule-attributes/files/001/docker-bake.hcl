target "default" {
args={a=1,b=true,c=null,d="x",e=1.50,f=1e3}
}
