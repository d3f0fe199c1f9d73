package engine

import (
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/nodeset"
)

var (
	boot = time.Unix(1_700_000_000, 0)
	at   = func(s float64) time.Time { return boot.Add(time.Duration(s * float64(time.Second))) }
)

// sample is one of a machine of two processors that was started at boot.
func sample(s, busy float64) daemon.MachineSample {
	return daemon.MachineSample{At: at(s), Total: time.Duration(2 * s * float64(time.Second)), Busy: time.Duration(busy * float64(time.Second)), Memory: 8e9}
}

func TestMachineOf(t *testing.T) {
	m, ok := machineOf([]daemon.MachineSample{sample(100, 10), sample(101, 11), sample(105.02, 12)})
	require.True(t, ok)
	require.Equal(t, 2., m.Cores)
	require.Equal(t, int64(8e9), m.Memory)
	require.WithinDuration(t, boot, m.Boot, time.Second)

	// The kernel counts in ticks, and not all of them: a little less is meant whole.
	short := []daemon.MachineSample{sample(100, 10), sample(110, 10)}
	short[1].Total -= time.Second
	m, _ = machineOf(short)
	require.Equal(t, 2., m.Cores)

	for _, samples := range [][]daemon.MachineSample{nil, {sample(1, 1)}, {sample(1, 1), sample(1.5, 1)}, {sample(5, 1), {At: at(9)}}} {
		_, ok = machineOf(samples)
		require.False(t, ok, samples)
	}
}

// What steps use is seen from how busy their machine was, whichever of its nodes they ran
// on; what a node said itself stays.
func TestEstimate(t *testing.T) {
	step := func(node string, from, to float64, cpu time.Duration) plan.Measurement {
		return plan.Measurement{Node: node, Vertex: digest.FromString(node), Start: at(from), Took: at(to).Sub(at(from)), CPU: cpu}
	}
	machine := cost.Machine{Cores: 2, Memory: 8e9, Boot: boot, When: boot}
	machines := map[string]cost.Machine{"a": machine, "b": machine, "c": {Cores: 4, Boot: boot, When: boot}}
	samples := map[string][]daemon.MachineSample{"a": {sample(100, 10), sample(110, 11)}, "b": {sample(100, 10), sample(110, 11)}}
	list := []plan.Measurement{
		step("a", 100, 110, 0), step("b", 100, 110, 0), // one second of work for 20 s of steps
		step("a", 50, 60, 0),                                // before
		step("c", 100, 110, 0),                              // of a machine without samples
		step("a", 105, 105, 0),                              // no time at all
		{Node: "a", Start: at(100), Took: 10 * time.Second}, // outputs
	}
	estimate(list, samples, machines)
	require.Equal(t, 500*time.Millisecond, list[0].CPU)
	require.Equal(t, 500*time.Millisecond, list[1].CPU)
	for _, m := range list[2:4] {
		require.Zero(t, m.CPU)
	}
	require.Zero(t, list[5].CPU)

	told := []plan.Measurement{step("a", 100, 110, 7*time.Second)}
	estimate(told, samples, machines)
	require.Equal(t, 7*time.Second, told[0].CPU)
}

// Steps are charged by what their machines can do, also when the plan did not know that yet:
// else steps that wait would be thought short because many waited at once.
func TestChargedCapacity(t *testing.T) {
	const addr = "tcp://a:1"
	for name, c := range map[string]struct {
		node    plan.Node
		spec    nodeset.Spec
		machine bool // it reported its machine
		late    bool // it came after the plan was made
		want    plan.Capacity
	}{
		"nothing known":          {node: plan.Node{Slots: 4, SlotsAssumed: true}, want: plan.Capacity{Slots: 4}},
		"the first run":          {node: plan.Node{Slots: 4, SlotsAssumed: true}, machine: true, want: plan.Capacity{Slots: 4, Cores: 2}},
		"a user said it":         {node: plan.Node{Slots: 4}, machine: true, want: plan.Capacity{Slots: 4}},
		"one of several":         {node: plan.Node{Slots: 2, SlotsAssumed: true, Machine: "m", Shared: 3}, want: plan.Capacity{Slots: 3, Machine: "m"}},
		"one of several, known":  {node: plan.Node{Slots: 2, Machine: "m", Shared: 3}, machine: true, want: plan.Capacity{Slots: 3, Cores: 2, Machine: "m"}},
		"late":                   {late: true, machine: true, want: plan.Capacity{Slots: assumedSlots, Cores: 2}},
		"late, and a user's own": {late: true, machine: true, spec: nodeset.Spec{Slots: 3}, want: plan.Capacity{Slots: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			history, err := cost.Open(cost.InMemory, cost.Options{})
			require.NoError(t, err)
			if c.machine {
				history.RecordMachine(addr, cost.Machine{Cores: 2, Memory: 8e9, Boot: boot, When: boot})
			}
			l := &lesson{history: history, plan: &plan.Plan{Nodes: []plan.Node{c.node}}, result: &runtime.Result{Nodes: make([]runtime.NodeResult, 1)}}
			if c.late {
				l.plan.Nodes = nil
			}
			info := daemon.NodeInfo{Spec: c.spec}
			info.Addr = addr
			require.Equal(t, map[string]plan.Capacity{addr: c.want}, l.capacity([]daemon.NodeInfo{info}))
		})
	}
}

func TestSameMachine(t *testing.T) {
	m := cost.Machine{Cores: 2, Memory: 8e9, Boot: boot}
	later := m
	later.Boot = boot.Add(time.Hour)
	near := m
	near.Boot = boot.Add(time.Second)
	require.Equal(t, [][]string{{"a", "c"}, {"b"}}, sameMachine(map[string]cost.Machine{"a": m, "b": later, "c": near}))
}
