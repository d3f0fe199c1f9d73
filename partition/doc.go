// Package partition decides which node builds which target.
//
// # The problem
//
// A [Problem] is a graph of vertices (build steps or stages) with costs and sizes,
// the targets whose roots must come to be, heterogeneous nodes with slots, and one
// registry through which nodes exchange results. A vertex is paid once on each
// node that needs it, however many targets share it, so a node's load is a
// coverage function of its targets and not a sum. A node that needs a vertex
// holds it already (warm), executes it, or fetches it; a fetched vertex needs only
// its layer parent, an executed one all its inputs. Results may be built on a node
// only to be shipped to others.
//
// A vertex with [Vertex.Once] has one result in a plan: it is executed on one node at most, and
// the other nodes that need it pay the transfer. The rule stands where wishes become a plan and
// where a plan from outside is checked. Whatever a strategy wishes then obeys it, and the price
// is part of every makespan that a strategy compares. heft and exact know it beforehand as
// well, to look in the right places. Lower bounds do not count it.
//
// A vertex with [Vertex.Mounts] is faster where its cache mounts are filled. A node is taken to
// have what it had at time 0 ([Node.Filled]) throughout: although the first vertex on it that
// works with a mount fills that for those after it, all of them are counted as cold there.
// Otherwise the time of a vertex would depend on what runs before it, and no set of vertices had
// a cost of its own. That is safe: no vertex takes longer than it is counted, and no node is chosen
// for a mount that it may not have filled by then. Lower bounds are those of plans as they are
// counted.
//
// With [Network.Links] the registry, or the client, carries so many transfers at once in each
// direction, whatever nodes they are of, and the others wait in the order of their longest paths to
// the end. In fact all go on, more slowly; the last of them then ends when it does in the plan.
// Lower bounds do not count the limit.
//
// # Use
//
//	plan, err := strategy.Plan(ctx, problem, partition.Options{}) // from Lookup or Strategies
//	schedule, err := partition.Evaluate(problem, plan.Assignment) // any assignment, also an edited one
//	bound, err := partition.LowerBound(problem)
//
// [Evaluate] is the arithmetic that everything else is judged by: the makespan of
// an [Assignment], with the start and end of every task. Every [Strategy] returns a
// [Plan], which carries assignment, schedule and lower bound. Strategies are looked
// up by name; "affinity" is the one to use.
//
// [Explain] says why a target is on its node and what each other node would cost;
// [Schedule.CriticalPath] which tasks decide the makespan.
//
// # Strategies
//
//	single       all on the node that alone ends first
//	round-robin  dealt out in turn
//	random       seeded
//	queue        an idle node takes the next target
//	lpt          longest target first to the least loaded node, as if nothing were shared
//	rendezvous   by hash of the base, with bounded load
//	heft         earliest finish time, counting only what a node would have to add
//	affinity     the best of these, annealed; see there
//	exact        branch and bound; for small problems
//
// Strategies work on a canonical form of the problem: reordering or renaming nodes
// and targets does not change the makespan. (round-robin, random and rendezvous
// depend on order or names by nature.)
//
// # Invariants
//
// All functions are pure: no clock, no network, no goroutine that outlives its
// call, no global state. Equal arguments give equal results, because search is
// limited by work done ([Options.Budget]) and time limits come from the caller's
// context only. A Problem is never modified. Makespans never fall below the bound.
// Everything is safe for concurrent use. affinity and exact are never longer than
// single, queue, lpt and heft.
//
// # Cost
//
// Predicting a schedule takes O((V + tasks) log tasks). heft looks at every node for
// every target up to 64 nodes, beyond that at those that hold part of it and at the
// least busy of each kind, so that it grows with the number of targets; 12,000
// targets on 1,000 nodes take about a second.
//
// # Sources
//
// Graham 1969 (list scheduling, LPT); Topcuoglu, Hariri and Wu 2002 (HEFT); Giffler
// and Thompson 1960 (active schedules); Kirkpatrick, Gelatt and Vecchi 1983
// (annealing); Thaler and Ravishankar 1998 (rendezvous hashing).
package partition
