// Package peers builds the same projects with dbake and with what people use today,
// side by side, on real BuildKit nodes.
//
// The contenders are dbake with any strategy, "docker buildx bake" on a builder of
// one node and on a builder of all nodes, and a queue that gives each node one
// target at a time (what wrappers around bake do). All of them run as the commands
// that people type, all push their images, and all share results through caches of
// mode=max in one registry.
//
// Every contender gets nodes, a registry and a home directory of its own, which
// begin empty, and then goes through the scenarios in order: cold, nothing changed,
// one file, a file that many targets read, another base image, all nodes replaced,
// a slow node, and once more cold with what was learned. Contenders take turns, and
// the order turns with the rounds, so that a machine that gets slower does so for
// all. Only ratios within a round say something.
//
// # What is counted, and how
//
//   - Seconds are those of the whole command.
//   - Steps are the containers that a node starts: the nodes are given a runtime
//     that notes each, and how long it ran, around runc. No progress stream is asked.
//   - Requests are seen by a proxy in front of the registry, and those for base images by
//     one in front of the registry that stands for Docker Hub: blobs read, and how many
//     of them were distinct.
//   - Sent bytes are those from clients to nodes, seen by a proxy in front of each
//     node: contexts and definitions.
//   - The bound is what no schedule can beat: the longest chain of steps, or all
//     steps once, divided by all slots. Where steps compute it is made of what they
//     took in the run that executed least, and is called about that.
//
// A node runs as many steps at once as it has slots (max-parallelism of buildkitd),
// whatever it shares the machine with; with -cpus it also has that much processor time.
package peers
