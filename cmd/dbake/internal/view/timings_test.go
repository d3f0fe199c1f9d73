package view

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/stopwatch"
)

func TestTimings(t *testing.T) {
	list := []stopwatch.Phase{
		{Name: "plan", Wall: 250 * time.Millisecond, CPU: 200 * time.Millisecond},
		{Name: "run steps", Wall: 750 * time.Millisecond},
	}
	var out bytes.Buffer
	p, err := New(&out, Options{Mode: ModePlain})
	require.NoError(t, err)
	p.Timings(list)
	require.Equal(t, `
PHASE      TIME    PART  CPU
plan       0.250s  25%   0.200s
run steps  0.750s  75%   0.000s
all        1.000s  100%  0.200s
`, out.String())

	out.Reset()
	p, err = New(&out, Options{Mode: ModeRawJSON})
	require.NoError(t, err)
	p.Timings(list)
	var e event
	require.NoError(t, json.Unmarshal(out.Bytes(), &e))
	require.Equal(t, "timings", e.Event)
	require.Equal(t, []rawPhase{{"plan", 0.25, 0.2}, {"run steps", 0.75, 0}}, e.Timings)

	out.Reset()
	p, err = New(&out, Options{Mode: ModeQuiet})
	require.NoError(t, err)
	p.Timings(list)
	require.Empty(t, out.String())
}

// No time at all is no division by it.
func TestTimingsOfNothing(t *testing.T) {
	var out bytes.Buffer
	Timings(&out, nil)
	require.Contains(t, out.String(), "all    0.000s  0%    0.000s")
}
