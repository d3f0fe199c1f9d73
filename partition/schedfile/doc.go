// Package schedfile reads and writes scheduling instances and results in the
// dbake-sched/1 format: JSON with times in seconds, everything referred to by name.
//
// Instances describe a [partition.Problem]; results describe an assignment for one,
// so that other programs can recompute its makespan.
package schedfile
