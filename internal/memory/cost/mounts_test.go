package cost

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Times with cold and with filled cache mounts are kept apart; as long as one of both is known,
// it serves for both.
func TestMountsApart(t *testing.T) {
	const s = time.Second
	type sample struct {
		took   time.Duration
		mounts Mounts
	}
	for name, c := range map[string]struct {
		samples      []sample
		want, filled time.Duration
	}{
		"an old history":   {[]sample{{60 * s, ""}, {10 * s, ""}, {10 * s, ""}}, 10 * s, 0},
		"cold only":        {[]sample{{60 * s, Cold}}, 60 * s, 0},
		"filled only":      {[]sample{{10 * s, Filled}}, 10 * s, 0},
		"filled and old":   {[]sample{{60 * s, ""}, {60 * s, ""}, {10 * s, Filled}}, 60 * s, 0},
		"both":             {[]sample{{60 * s, Cold}, {10 * s, Filled}, {12 * s, Filled}, {11 * s, Filled}}, 60 * s, 11 * s},
		"both and old":     {[]sample{{5 * s, ""}, {60 * s, Cold}, {10 * s, Filled}}, 60 * s, 10 * s},
		"noise":            {[]sample{{104 * s, Cold}, {100 * s, Filled}}, 102 * s, 0},
		"slower if filled": {[]sample{{10 * s, Cold}, {30 * s, Filled}}, 20 * s, 0},
	} {
		t.Run(name, func(t *testing.T) {
			store := inMemory(t)
			for i, x := range c.samples {
				store.Record(run("key", "slot", "make"), Sample{Node: "a", Took: x.took, When: time.Unix(int64(i), 0), Mounts: x.mounts})
			}
			for _, step := range []Step{run("key", "slot", "make"), run("edited", "slot", "make all")} {
				p := store.Predict(step)
				require.InDelta(t, c.want, p.Duration, 1)
				require.InDelta(t, c.filled, p.Filled, 1)
			}
		})
	}
}

// Runs with filled mounts do not make the history forget what a cold one takes, and both are
// still known when it was written, read and carried elsewhere.
func TestMountsAreKept(t *testing.T) {
	name := filepath.Join(t.TempDir(), "history.db")
	store, err := Open(name, Options{})
	require.NoError(t, err)
	step := run("key", "", "make")
	store.Record(step, Sample{Node: "a", Took: time.Minute, When: time.Unix(1, 0), Mounts: Cold})
	for i := range 3 * maxSamples {
		store.Record(step, Sample{Node: "a", Took: time.Second, When: time.Unix(int64(2+i), 0), Mounts: Filled})
	}
	require.Len(t, store.steps[string(step.Key)].samples, maxSamples)
	require.NoError(t, store.Close())
	again, err := Open(name, Options{})
	require.NoError(t, err)
	var lines bytes.Buffer
	require.NoError(t, again.Export(&lines))
	carried := inMemory(t)
	_, err = carried.Import(&lines)
	require.NoError(t, err)
	for _, s := range []*Store{store, again, carried} {
		p := s.Predict(step)
		require.Equal(t, time.Minute, p.Duration)
		require.Equal(t, time.Second, p.Filled)
	}
}

// A node that ran steps with filled mounts is no faster for that.
func TestMountsTeachNoSpeed(t *testing.T) {
	store := inMemory(t)
	for i := range 10 {
		step := run(string(rune('a'+i)), "", "make")
		store.Record(step, Sample{Node: "cold", Took: time.Minute, When: time.Unix(1, 0), Mounts: Cold})
		store.Record(step, Sample{Node: "filled", Took: 10 * time.Second, When: time.Unix(2, 0), Mounts: Filled})
	}
	for _, n := range []string{"cold", "filled"} {
		speed, steps := store.Speed(n)
		require.Equal(t, 1., speed)
		require.Zero(t, steps)
	}
}
