package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory"
	"github.com/dbake/dbake/runtime/nodeset"
)

func TestParseExpectation(t *testing.T) {
	got, err := ParseExpectation("3@1m20s")
	require.NoError(t, err)
	require.Equal(t, Expectation{Nodes: 3, After: 80 * time.Second}, got)
	for _, text := range []string{"", "3", "@20s", "0@20s", "-1@20s", "x@20s", "3@", "3@0s", "3@-1s", "3@20"} {
		_, err := ParseExpectation(text)
		require.Error(t, err, "%q", text)
	}
}

// A node is expected when it came in most of the last builds, if it came late.
func TestUsualArrival(t *testing.T) {
	for _, tt := range []struct {
		came []float64
		want time.Duration // 0 is not expected
	}{
		{nil, 0},
		{[]float64{20}, 20 * time.Second},
		{[]float64{0, 20, 22}, 20 * time.Second},
		{[]float64{0, 0, 22}, 0},
		{[]float64{-1}, 0},
		{[]float64{-1, 30, 31}, 31 * time.Second},
		{[]float64{-1, -1, 31}, 0},
		{[]float64{3000}, 0},
	} {
		got, ok := usual(tt.came)
		require.Equal(t, tt.want > 0, ok, "%v", tt.came)
		if ok {
			require.Equal(t, tt.want, got, "%v", tt.came)
		}
	}
}

// Expectations are met in the order of the nodes, and end when a node is late for as long as
// one may be silent.
func TestExpect(t *testing.T) {
	away := []nodeset.Spec{{Name: "a", Addr: "tcp://a"}, {Name: "b", Addr: "tcp://b"}, {Name: "c", Addr: "tcp://c"}}
	at := func(list ...int) map[string]time.Duration {
		m := map[string]time.Duration{}
		for i, t := range list {
			if t > 0 {
				m[away[i].Name] = time.Duration(t) * time.Second
			}
		}
		return m
	}
	for _, tt := range []struct {
		timeout  time.Duration
		want     map[int]map[string]time.Duration // by age in seconds
		patience time.Duration
	}{
		{0, map[int]map[string]time.Duration{0: at(20, 40, 40), 20: at(21, 40, 40), 29: at(30, 40, 40), 31: at(0, 40, 40), 60: at()}, 50 * time.Second},
		{time.Minute, map[int]map[string]time.Duration{0: at(20, 40, 40), 31: at(32, 40, 40), 81: at(0, 82, 82), 101: at()}, 100 * time.Second},
	} {
		choice := Nodes{Expect: []Expectation{{2, 40 * time.Second}, {1, 20 * time.Second}}, Timeout: tt.timeout}
		s := arrivalsOf(&standby{engine: &Engine{memory: memory.New(nil, nil)}, nodes: &nodes{specs: away}, choice: choice})
		for age, want := range tt.want {
			require.Equal(t, want, s.expect(away, time.Duration(age)*time.Second), "after %d s of %s", age, tt.timeout)
		}
		require.Equal(t, at(20), s.expect(away[:1], 0), "fewer than are expected")
		require.Equal(t, tt.patience, choice.patience())
	}
}
