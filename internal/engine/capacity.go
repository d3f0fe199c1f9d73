package engine

import (
	"math"
	"slices"
	"time"

	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/daemon"
)

const (
	// shortWindow is the least time between two samples of a machine that say anything about it.
	shortWindow = time.Second
	// nearWhole is how far a number of processors may be from the whole number that is meant.
	nearWhole = 0.1
)

// machineOf returns what the samples say about a machine; ok is false when they do not
// reach far enough.
func machineOf(samples []daemon.MachineSample) (m cost.Machine, ok bool) {
	if len(samples) < 2 {
		return m, false
	}
	first, last := samples[0], samples[len(samples)-1]
	span := last.At.Sub(first.At)
	if span < shortWindow || last.Total <= first.Total {
		return m, false
	}
	m.Cores = (last.Total - first.Total).Seconds() / span.Seconds()
	if whole := math.Round(m.Cores); whole >= 1 && math.Abs(m.Cores-whole) < nearWhole*whole {
		m.Cores = whole
	}
	m.Memory, m.When = last.Memory, last.At
	m.Boot = last.At.Add(-time.Duration(float64(last.Total) / m.Cores))
	return m, true
}

// busyCores returns how many processors worked between the first and the last sample.
func busyCores(samples []daemon.MachineSample) float64 {
	first, last := samples[0], samples[len(samples)-1]
	return (last.Busy - first.Busy).Seconds() / last.At.Sub(first.At).Seconds()
}

// estimate fills in the processor time of steps whose nodes did not report it, from the load of
// their machine while they ran. All of that load counts as theirs, up to what a step could have
// used. samples are those of the machine that each node runs on, machines what is known of it,
// both by the node's address.
func estimate(list []plan.Measurement, samples map[string][]daemon.MachineSample, machines map[string]cost.Machine) {
	for _, nodes := range sameMachine(machines) {
		for _, node := range nodes {
			window := samples[node]
			if len(window) < 2 || window[len(window)-1].At.Sub(window[0].At) < shortWindow {
				continue
			}
			from, to := window[0].At, window[len(window)-1].At
			var ran time.Duration // of all steps in the window
			for _, m := range list {
				if slices.Contains(nodes, m.Node) && m.Vertex != "" {
					ran += overlap(m, from, to)
				}
			}
			if ran <= 0 {
				continue
			}
			share := busyCores(window) * to.Sub(from).Seconds() / ran.Seconds()
			for i := range list {
				m := &list[i]
				if m.Node == node && m.Vertex != "" && m.CPU == 0 && 2*overlap(*m, from, to) >= m.Took {
					m.CPU = max(1, time.Duration(min(share, machines[node].Cores)*float64(m.Took)))
				}
			}
		}
	}
}

// overlap returns the part of a measurement between two times.
func overlap(m plan.Measurement, from, to time.Time) time.Duration {
	begin, end := m.Start, m.Start.Add(m.Took)
	if begin.Before(from) {
		begin = from
	}
	if end.After(to) {
		end = to
	}
	return max(0, end.Sub(begin))
}

// sameMachine groups nodes by the machine that they run on.
func sameMachine(machines map[string]cost.Machine) [][]string {
	var groups [][]string
	var nodes []string
	for n := range machines {
		nodes = append(nodes, n)
	}
	slices.Sort(nodes)
	for _, n := range nodes {
		i := slices.IndexFunc(groups, func(g []string) bool { return machines[g[0]].Same(machines[n]) })
		if i < 0 {
			groups = append(groups, nil)
			i = len(groups) - 1
		}
		groups[i] = append(groups[i], n)
	}
	return groups
}

// freshMachine is how long a node's report of its machine is believed.
const freshMachine = 24 * time.Hour
