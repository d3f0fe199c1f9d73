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
// # Invariants
//
// All functions are pure: no clock, no network, no goroutine that outlives its
// call, no global state. Equal arguments give equal results, because search is
// limited by work done ([Options.Budget]) and time limits come from the caller's
// context only. A Problem is never modified. Makespans never fall below the bound.
// Everything is safe for concurrent use.
package partition
