package stopwatch

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPhasesAddUp(t *testing.T) {
	var clock, cpu time.Duration
	w := New()
	w.now = func() time.Time { return time.Unix(0, 0).Add(clock) }
	w.cpu = func() time.Duration { return cpu }
	pass := func(wall, used time.Duration) { clock, cpu = clock+wall, cpu+used }
	pass(time.Second, time.Second) // in no phase
	w.Enter("read")
	pass(2, 1)
	w.Enter("read")
	pass(3, 1)
	w.Enter("steps")
	pass(10, 0)
	w.Enter("read")
	pass(5, 4)
	w.Stop()
	pass(7, 7)
	w.Stop()
	require.Equal(t, []Phase{{"read", 10, 6}, {"steps", 10, 0}}, w.Phases())
}

func TestNoWatchMeasuresNothing(t *testing.T) {
	var w *Watch
	w.Enter("read")
	w.Stop()
	require.Empty(t, w.Phases())
}

func TestProcessTimeGrows(t *testing.T) {
	if ProcessTime() == 0 {
		t.Skip("the system does not say")
	}
	before := ProcessTime()
	for i := 0; ProcessTime() == before && i < 1e9; i++ { // it is only counted in ticks
	}
	require.Greater(t, ProcessTime(), before)
}
