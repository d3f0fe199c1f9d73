// Package local runs a build cluster on this machine: a number of buildkitd
// daemons, each with a root and a loopback port of its own, and an OCI registry
// that they share.
//
// Everything lives below one state directory and survives between runs, so that
// a second run finds its layers:
//
//	cluster.json     ports, and who runs the cluster now
//	cluster.lock     held by whoever runs it
//	registry/        registry storage and its log
//	nodes/n1/        one daemon: configuration, log, root/, tmp/
//	supervisor.log   output of a detached cluster
//
// A cluster runs in one of two ways. In the foreground it belongs to the process
// that called [Cluster.Start] and dies with it, even when that process is killed
// without a chance to clean up. Detached ([Up], [Down], [ReadStatus]) it belongs to
// a supervisor process, and any later [Open] of the same state directory attaches
// to it: starting and stopping are then no-ops.
//
// Each daemon is the first process of a process namespace and of a mount namespace,
// so the kernel sees to it that its containers and mounts end with it. What is left
// are files (bundles, sockets, temporary files), confined to the node's directory;
// Stop removes them, or the next Start does after a crash.
//
// Ports are kept from run to run, because image names contain the registry's. A
// port that somebody else holds by then is replaced, and [Options.Notify] is told.
//
// Docker Hub and the registry's own addresses resolve to the registry, over plain
// HTTP, so that base images made on this machine serve every FROM line.
//
// Daemons need Linux, root and runc. Elsewhere the package compiles and every
// attempt to start reports what is missing.
package local
