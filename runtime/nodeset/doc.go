// Package nodeset finds out which BuildKit nodes a command talks to: from the
// values of --nodes ([Parse]), from a builder that buildx has stored
// ([FromBuilder]), or from the builder that buildx would choose ([Default]).
//
// It reads and never writes. A [Spec] describes where a node is and how to reach it;
// [Spec.Dial] connects to it, and explains failures in plain words ([Refusal]). To find
// nodes it starts one program, kubectl: buildx stores only the name of the deployment of a
// builder of the kubernetes driver, not the pods.
//
// # Values of --nodes
//
//	tcp://10.0.0.5:1234
//	gpu=tcp://gpu.example.com:1234,speed=2,slots=4
//	tcp://bk:1234,cacert=ca.pem,cert=c.pem,key=k.pem,servername=bk.internal
//	arm=ssh://build@arm.example.com,platforms=linux/arm64;linux/arm/v7
//	unix:///run/buildkit/buildkitd.sock
//	docker-container://buildkitd   kube-pod://buildkit-0?namespace=ci
//	local:3
//
// A node is [NAME=]ADDRESS followed by options, separated by commas. Several
// nodes may stand in one value, separated by white space, or by a comma where an
// address follows; so that one environment variable can hold a whole cluster.
// Nobody has to name nodes: a name is made from the host, or n1, n2, … by place
// in the list where there is no telling host name.
//
// # Builders of buildx
//
// The layout of buildx's directory is that of buildx 0.37: current, defaults/,
// instances/. Its files are replaced atomically, so reading takes no lock. buildx
// rewrites "current" while it reads; this package does not. The platforms stored
// with a node are ignored: buildx removes a platform that is given to one node
// from all others, so the lists are no statement of what a node can do. The
// nodes themselves are asked when they are dialled.
//
// Everything here is a function of its arguments and the files named above, safe
// for concurrent use, and returns nodes in a stable order.
package nodeset
