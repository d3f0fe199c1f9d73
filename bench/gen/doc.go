// Package gen makes random scheduling instances that look like builds: one fat
// base, a forest of language bases, nothing shared, one giant target, chains of
// linked targets, monorepos, with homogeneous and mixed nodes, cold and warm.
//
// Equal arguments give equal instances on every machine.
package gen
