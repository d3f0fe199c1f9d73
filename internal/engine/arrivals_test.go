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

// Expectations are met in the order of the nodes, and end some time after they were due.
func TestExpect(t *testing.T) {
	away := []nodeset.Spec{{Name: "a", Addr: "tcp://a"}, {Name: "b", Addr: "tcp://b"}, {Name: "c", Addr: "tcp://c"}}
	choice := Nodes{Expect: []Expectation{{2, 40 * time.Second}, {1, 20 * time.Second}}}
	s := arrivals{engine: &Engine{memory: memory.New(nil, nil)}, nodes: &nodes{specs: away}, given: choice.Expect}
	at := func(list ...int) map[string]time.Duration {
		m := map[string]time.Duration{}
		for i, t := range list {
			if t > 0 {
				m[away[i].Name] = time.Duration(t) * time.Second
			}
		}
		return m
	}
	for age, want := range map[int]map[string]time.Duration{
		0: at(20, 40, 40), 20: at(21, 40, 40), 29: at(30, 40, 40), 31: at(0, 40, 40), 60: at(),
	} {
		require.Equal(t, want, s.expect(away, time.Duration(age)*time.Second), "after %d s", age)
	}
	require.Equal(t, at(20), s.expect(away[:1], 0), "fewer than are expected")
	require.Equal(t, 50*time.Second, choice.patience())
}
