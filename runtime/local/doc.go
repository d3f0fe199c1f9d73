// Package local runs a build cluster on this machine: a number of buildkitd
// daemons, each with a root and a socket of its own, and an OCI registry that they
// share.
//
// Everything lives below one state directory and survives between runs, so that
// a second run finds its layers:
//
//	cluster.json     the registry's port, and who runs the cluster now
//	cluster.lock     held by whoever runs it
//	registry/        registry storage and its log
//	nodes/n1/        one daemon: configuration, log, root/, tmp/
//	run/             sockets of the daemons and of the supervisor
//	supervisor.log   output of the supervisor
//
// All processes that use a state directory share its cluster. A supervisor owns the
// daemons: the first user starts it, later ones join it over its control socket, and
// it ends with the last. A user is a connection, so that the kernel reports the end of
// one that was killed. [Up] makes the cluster stay without users, until [Down]. When
// the supervisor itself dies its daemons die with it, and its users start another.
// A [Cluster] without Options.Supervisor has daemons of its own instead, in this
// process and not for others, which die with it: for tests and benchmarks.
//
// A daemon that dies is started again, at the same address, whether somebody uses it
// or not. It allows insecure entitlements only to users that want them; to change that
// it is started again, once no other user is left.
//
// Nodes are closed to other users of the machine, for whoever can talk to a buildkitd
// is root: their sockets, and the directories of nodes and registry, are for their
// owner alone, and a state directory that others may change is refused. The registry
// has a port, as docker and image names need one. Everybody may read there, but only
// processes of the owner, or of root, may write ([Registry]); a build step with the
// network of the machine is such a process.
//
// Each daemon is in a process namespace and a mount namespace of its own, so the
// kernel sees to it that its containers and mounts end with it, and the first process
// of the namespace collects what they leave. What is left otherwise are files
// (bundles, sockets, temporary files), confined to the node's directory; Stop removes
// them, or the next Start does after a crash.
//
// The registry's port is kept from run to run, because image names contain it. A
// port that somebody else holds by then is replaced, and [Options.Notify] gets a line.
//
// Docker Hub and the registry's own addresses resolve to the registry, over plain
// HTTP, so that base images made on this machine serve every FROM line.
//
// Daemons need Linux, root and runc. Elsewhere the package compiles and every
// attempt to start reports what is missing.
package local
