// Package sim compares strategies on scheduling instances in virtual time.
//
// Planning is measured by the predicted schedule of each strategy's plan: makespan,
// lower bound, work done more than once, time to plan. Running goes further: a
// [Cluster] of nodes that exist only in virtual time carries out the commands of
// the very scheduler that drives daemons (package runtime/sched), with work
// stealing or without, and with a world that differs from the plan: steps that
// take another time than estimated, a node that goes away, a registry that is slow or that
// carries few transfers at once.
//
// Equal flags give equal output, planning times apart.
package sim
