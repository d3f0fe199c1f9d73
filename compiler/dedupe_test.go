package compiler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDedupeExact compares with what docker buildx does, element by element.
func TestDedupeExact(t *testing.T) {
	plainly := func(list []int) []int {
		for i := len(list) - 2; i >= 0; i-- {
			if j := slices.Index(list[i+1:], list[i]); j >= 0 {
				list[i+1+j] = list[len(list)-1]
				list = list[:len(list)-1]
			}
		}
		return list
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		list := make([]int, rnd.IntN(12))
		for i := range list {
			list[i] = rnd.IntN(5)
		}
		want := plainly(slices.Clone(list))
		got := dedupeExact(slices.Clone(list), func(v int) string { return fmt.Sprint(v) })
		require.Equal(t, fmt.Sprint(want), fmt.Sprint(got), "%v", list)
	}
}
