package cost

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

const (
	// priorSteps is how many shared steps the declared speed of a node weighs.
	priorSteps = 1.
	// shortest is the duration below which a sample says nothing about speed.
	shortest = 100 * time.Millisecond
	rounds   = 30
)

// learnSpeeds returns, for each node that shares a step with another one, its speed
// and the number of steps that show it. declared gives speeds known beforehand; 1 for
// the rest.
func learnSpeeds(steps map[string]*record, declared map[string]float64) map[string]speed {
	names, shared := sharedSteps(steps)
	prior := make([]float64, len(names))
	for i, n := range names {
		if d := declared[n]; d > 0 && !math.IsInf(d, 0) {
			prior[i] = math.Log(d)
		}
	}
	log := slices.Clone(prior)
	told := make([][]float64, len(names)) // by the steps of each node
	for range rounds {
		if improve(log, told, prior, shared) < 1e-6 {
			break
		}
	}
	out := make(map[string]speed, len(names))
	for i, n := range names {
		out[n] = speed{math.Exp(log[i]), len(told[i])}
	}
	return out
}

// cell is what a step took on a node, by its number.
type cell struct {
	node int
	took float64 // log of seconds
}

// sharedSteps returns the steps that several nodes have run, as rows of what each took
// there, and the names of these nodes.
func sharedSteps(steps map[string]*record) (names []string, shared [][]cell) {
	index := map[string]int{}
	var samples []Sample
	var logs []float64
	for _, state := range statesOf(steps) {
		samples = samples[:0]
		several := false
		for _, x := range steps[state.key].samples {
			if x.Took >= shortest && x.Mounts == state.mounts {
				samples = append(samples, x)
				several = several || x.Node != samples[0].Node
			}
		}
		if !several {
			continue
		}
		slices.SortFunc(samples, func(a, b Sample) int { return cmp.Compare(a.Node, b.Node) })
		var row []cell
		for rest := samples; len(rest) > 0; {
			n := rest[0].Node
			logs = logs[:0]
			for len(rest) > 0 && rest[0].Node == n {
				logs = append(logs, math.Log(rest[0].Took.Seconds()))
				rest = rest[1:]
			}
			i, ok := index[n]
			if !ok {
				i = len(names)
				index[n] = i
				names = append(names, n)
			}
			row = append(row, cell{i, median(logs)})
		}
		shared = append(shared, row)
	}
	return names, shared
}

// state is a step with its cache mounts in one state.
type state struct {
	key    string
	mounts Mounts
}

// statesOf returns the states in which steps were measured, in order.
func statesOf(steps map[string]*record) []state {
	var list []state
	for _, key := range slices.Sorted(maps.Keys(steps)) {
		for _, m := range []Mounts{"", Cold, Filled} {
			if slices.ContainsFunc(steps[key].samples, func(x Sample) bool { return x.Mounts == m }) {
				list = append(list, state{key, m})
			}
		}
	}
	return list
}

// improve takes the cost of each step as the median of what its nodes say at their present
// speeds, and then the speed of each node as the median of what its steps say, in log and
// told. It returns by how much the speed that changed most has changed.
func improve(log []float64, told [][]float64, prior []float64, shared [][]cell) float64 {
	for i := range told {
		told[i] = told[i][:0]
	}
	var cost []float64
	for _, row := range shared {
		cost = cost[:0]
		for _, c := range row {
			cost = append(cost, c.took+log[c.node])
		}
		m := median(cost)
		for _, c := range row {
			told[c.node] = append(told[c.node], m-c.took)
		}
	}
	moved := 0.
	for i := range log {
		m := float64(len(told[i]))
		next := (m*median(told[i]) + priorSteps*prior[i]) / (m + priorSteps)
		moved = max(moved, math.Abs(next-log[i]))
		log[i] = next
	}
	return moved
}

type speed struct {
	factor float64
	steps  int
}

// median returns the median of xs, which it sorts; 0 for none.
func median(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	slices.Sort(xs)
	mid := len(xs) / 2
	if len(xs)%2 == 1 {
		return xs[mid]
	}
	return (xs[mid-1] + xs[mid]) / 2
}

// spread returns the typical distance from the median, relative to it: the median
// absolute deviation, scaled to be the standard deviation of a normal distribution.
func spread(xs []float64, med float64) float64 {
	if len(xs) < 3 || med <= 0 {
		return 1
	}
	dev := make([]float64, len(xs))
	for i, x := range xs {
		dev[i] = math.Abs(x - med)
	}
	return 1.4826 * median(dev) / med
}
