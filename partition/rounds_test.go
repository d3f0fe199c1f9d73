package partition

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRounds(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want []int
	}{
		{Options{Budget: -1}, nil},
		{Options{Budget: 999, Round: 4000}, nil},
		{Options{Budget: 1000, Round: 4000}, []int{1000}},
		{Options{Budget: 3999, Round: 4000}, []int{1000}},
		{Options{Budget: 4000, Round: 4000}, []int{1000, 3000}},
		{Options{Budget: 12_000, Round: 4000}, []int{1000, 3000, 8000}},
		{Options{Budget: 28_000, Round: 4000}, []int{1000, 3000, 8000, 16_000}},
		{Options{Budget: 500, Round: 4000, Previous: []NodeID{}}, []int{500}},
	} {
		require.Equal(t, c.want, c.o.rounds(), "%+v", c.o)
	}
	sum := 0
	for _, size := range (Options{}).rounds() {
		sum += size
	}
	require.Equal(t, DefaultBudget, sum)
	most := Options{Budget: math.MaxInt}.rounds()
	require.Less(t, len(most), 100)
	for _, size := range most {
		require.Positive(t, size)
	}
}
