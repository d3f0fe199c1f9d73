package engine

import (
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/daemon"
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

func TestSameMachine(t *testing.T) {
	m := cost.Machine{Cores: 2, Memory: 8e9, Boot: boot}
	later := m
	later.Boot = boot.Add(time.Hour)
	near := m
	near.Boot = boot.Add(time.Second)
	require.Equal(t, [][]string{{"a", "c"}, {"b"}}, sameMachine(map[string]cost.Machine{"a": m, "b": later, "c": near}))
}
